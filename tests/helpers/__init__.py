"""What tests of several modules have in common: doubles, and ways to control the order of things.

One idea in each module. What only one folder needs stands in that folder.
"""
