"""What becomes of an item: may it start, how did its call go, is it tried again."""
