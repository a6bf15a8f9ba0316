"""The agent's log: records, files, their writer and reader, and what services write."""
