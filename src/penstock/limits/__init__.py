"""How fast things may start. Decisions are pure (now in, wait out); what waits is a thin shell."""
