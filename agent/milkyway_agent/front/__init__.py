"""The process that parses HTTP for the local API; started when somebody connects, gone when idle."""
