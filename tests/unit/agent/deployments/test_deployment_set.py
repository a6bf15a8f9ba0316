"""Deployments come up, change and go, each for itself, over planes that touch nothing."""

from pathlib import Path

import pytest

from milkyway_agent.core.effects import OpenLayer
from milkyway_agent.deployments.layers import LayerDamagedError
from milkyway_formats.errors import RefusedError
from tests.fakes.deployments import DeploymentSite, desired


@pytest.fixture
def site(tmp_path: Path) -> DeploymentSite:
    return DeploymentSite(tmp_path)


def states(site: DeploymentSite) -> dict[str, str]:
    return {identifier: progress.state for identifier, progress in site.deployments.progress.items()}


async def test_a_deployment_comes_up_layers_first_services_last(site: DeploymentSite) -> None:
    web = site.deployment("web")
    assert await site.deployments.converge(desired(web)) is True
    assert site.plane.done[0] == "+open layer test/web 1"
    assert site.plane.done[-1] == "+run the services of web"
    assert states(site) == {"web_1": "active"}
    assert site.deployments.reasons() == []
    assert site.deployments.desired == desired(web)


async def test_the_same_desired_state_again_does_nothing(site: DeploymentSite) -> None:
    web = site.deployment("web")
    await site.deployments.converge(desired(web))
    done, asked = list(site.plane.done), len(site.verifier.asked)
    assert await site.deployments.converge(desired(web, version=2)) is True
    assert (site.plane.done, len(site.verifier.asked)) == (done, asked)


async def test_what_is_no_longer_desired_goes_with_its_layers(site: DeploymentSite) -> None:
    web, mail = site.deployment("web"), site.deployment("mail")
    await site.deployments.converge(desired(web, mail))
    assert await site.deployments.converge(desired(mail, version=2)) is True
    assert states(site) == {"mail_1": "active"}
    assert [site.store.has(deployment.stack[0].sha256) for deployment in (web, mail)] == [False, True]
    assert {effect.path for effect in site.executor.present if isinstance(effect, OpenLayer)} == {"test/mail"}
    assert "deployment_removed" in site.log.ring.events()


async def test_a_deployment_that_cannot_be_fetched_is_tried_again_and_holds_up_no_other(site: DeploymentSite) -> None:
    web, mail = site.deployment("web"), site.deployment("mail")
    missing = site.verifier.blobs.pop(web.stack[0].sha256)
    assert await site.deployments.converge(desired(web, mail)) is False
    assert states(site) == {"web_1": "failed", "mail_1": "active"}
    (reason,) = site.deployments.reasons()
    assert reason.startswith("web: cannot fetch layer")
    site.verifier.blobs[web.stack[0].sha256] = missing
    assert await site.deployments.converge(desired(web, mail)) is True
    assert states(site) == {"web_1": "active", "mail_1": "active"}


async def test_what_the_verifier_refuses_is_among_the_refusals_and_not_tried_again(site: DeploymentSite) -> None:
    web = site.deployment("web")
    site.verifier.blobs[web.stack[0].sha256] = b"something else"
    assert await site.deployments.converge(desired(web)) is True
    assert states(site) == {"web_1": "failed"}
    assert list(site.refusals) == [site.deployments.progress["web_1"].reason]


async def test_a_refusal_that_is_not_the_verifiers_is_not_among_its_refusals(site: DeploymentSite) -> None:
    site.plane.failing = {"+run the services of web"}
    site.plane.errors = {"+run the services of web": RefusedError("cannot run web/main: a listener was not granted")}
    assert await site.deployments.converge(desired(site.deployment("web"))) is True
    assert (states(site), list(site.refusals)) == ({"web_1": "failed"}, [])


async def test_a_first_version_may_start_slowly_and_an_upgrade_must_start(site: DeploymentSite) -> None:
    await site.deployments.converge(desired(site.deployment("web")))
    assert site.plane.must_start is False
    await site.deployments.converge(desired(site.deployment("web", generation=2), version=2))
    assert site.plane.must_start is True


async def test_an_upgrade_that_fails_goes_back_to_what_ran(site: DeploymentSite) -> None:
    await site.deployments.converge(desired(site.deployment("web")))
    before = site.executor.present
    new = site.deployment("web", generation=2)
    site.plane.failing = {"+load the policy of web_1, version 2"}
    assert await site.deployments.converge(desired(new, version=2)) is False
    assert site.executor.present == before
    assert site.plane.done[-2:] == ["+open layer test/web 2", "-open layer test/web 2"]
    assert states(site) == {"web_1": "failed"}
    site.plane.failing = set()
    assert await site.deployments.converge(desired(new, version=2)) is True
    assert {effect.version for effect in site.executor.present if isinstance(effect, OpenLayer)} == {"2"}


async def test_a_damaged_layer_is_removed_and_fetched_again(site: DeploymentSite) -> None:
    web = site.deployment("web")
    sha256 = web.stack[0].sha256
    site.plane.failing = {"+open layer test/web 1"}
    site.plane.errors = {"+open layer test/web 1": LayerDamagedError("cannot open layer", sha256=sha256)}
    assert await site.deployments.converge(desired(web)) is False
    assert not site.store.has(sha256)
    site.plane.failing = set()
    assert await site.deployments.converge(desired(web)) is True
    assert site.store.has(sha256)
    assert len(site.verifier.asked) == 2  # it was fetched twice, and never verified as installed


async def test_what_cannot_be_removed_is_still_there_and_tried_again(site: DeploymentSite) -> None:
    web = site.deployment("web")
    await site.deployments.converge(desired(web))
    site.plane.failing = {"-run the services of web"}
    assert await site.deployments.converge(desired(version=2)) is False
    assert set(site.deployments.groups) == {"web_1"}
    assert site.store.has(web.stack[0].sha256)
    site.plane.failing = set()
    assert await site.deployments.converge(desired(version=2)) is True
    assert site.executor.present == ()


async def test_taking_down_unmounts_everything_and_leaves_the_store(site: DeploymentSite) -> None:
    web = site.deployment("web")
    await site.deployments.converge(desired(web))
    await site.deployments.take_down()
    assert site.executor.present == ()
    assert site.store.has(web.stack[0].sha256)


async def test_an_agent_after_another_goes_on_with_what_holds(site: DeploymentSite) -> None:
    web = site.deployment("web")
    await site.deployments.converge(desired(web))
    groups, present, done = site.deployments.groups, site.executor.present, list(site.plane.done)
    site.deployments = site.another_set()
    site.executor.present = ()
    site.deployments.go_on(groups, present)
    assert states(site) == {"web_1": "active"}
    assert await site.deployments.converge(desired(web)) is True
    assert site.plane.done == done
