"""How many bytes a document and its envelope may have: one limit for all doors that they pass.

Imports nothing: ``mwctl`` needs it, and pays for every import at every start.
"""

MAX_DOCUMENT_BYTES = 256 * 1024
MAX_SIGNATURES = 16


def envelope_bytes(document: int) -> int:
    """Return how long the envelope of a document of at most *document* bytes may be: base64, all signatures at 4.6 kB each."""
    return document * 4 // 3 + MAX_SIGNATURES * 4700


MAX_ENVELOPE_BYTES = envelope_bytes(MAX_DOCUMENT_BYTES)
# Shorter, because on a machine the verifier hands it to PID 1 in one message (milkyway_agent.ipc.messages).
MAX_DESIRED_BYTES = 127 * 1024
