"""Root at the machine applies a document that no operator signed: it is refused, unless the owner's root allows it."""

import pytest

from demo import run as demo

pytestmark = pytest.mark.vm


def test_an_unsigned_document_is_refused_where_the_owner_does_not_say_local_change(chain: demo.Chain) -> None:
    file = demo.DEMO / "unsigned.json"
    demo.milkyway(*demo.order(chain.layers["nginx"], chain.layers, "unsigned"), "--unsigned", "--prepare", file)
    command = f"cat > /tmp/unsigned.json <<'END'\n{file.read_text().strip()}\nEND\nmwctl apply /tmp/unsigned.json"
    message = demo.in_machine("sh", "-c", command, refused=True)
    assert message.startswith("cannot ")
    assert "local: change" in message
    assert "unsigned" not in [deployment["name"] for deployment in demo.status()["deployments"]]


def test_trust_shows_what_root_may_do_and_a_member_of_the_group_may_read_but_a_stranger_may_not(chain: demo.Chain) -> None:
    assert '"local":"read"' in demo.in_machine("sh", "-c", "mwctl trust --json | tr -d ' \\n'")
    assert "dhcp" in demo.in_machine("python3", "-c", _as_user("[900]"))  # the group milkyway
    assert "neither root nor in the group milkyway" in demo.in_machine("python3", "-c", _as_user("[]"), refused=True)


def _as_user(groups: str) -> str:
    """Return a program that lists the services as an ordinary user in *groups*."""
    become = f"import os; os.setgroups({groups}); os.setgid(4711); os.setuid(4711)"
    return f"{become}; os.execv('/usr/bin/mwctl', ['mwctl', 'services'])"
