"""The language of MilkyWay: everything that two houses exchange, as strict, versioned, pure types."""
