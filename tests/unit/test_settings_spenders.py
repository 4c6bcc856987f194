"""Who pays beside runs and keys, and what a key may do, as the settings say it."""

from __future__ import annotations

import tomllib
from decimal import Decimal

import pytest

from bursar.ledger.account import Budget, Unit
from bursar.settings import Settings, SettingsError, parse

SECOND = 1_000_000


def read(text: str) -> Settings:
    return parse(tomllib.loads(text, parse_float=Decimal), "test.toml")


def test_everybody_has_caps_of_a_lifetime_and_any_number_of_budgets() -> None:
    payers = read(
        """
        [organisation]
        budgets = [{ usd = "1000", period = "month" }]
        [teams.research]
        usd = "none"
        budgets = [{ usd = "200", period = "week" }, { usd = "50", period = "day", timezone = "Europe/Berlin" }]
        [users."ann@example.com"]
        tokens = 5
        [tags."env=prod"]
        calls = 3
        [tags.beta]
        [budgets."model:gpt-*"]
        usd = "2.50"
        [budgets."upstream:openai"]
        calls = 0
        """
    ).payers()
    assert {scope: payer.all("UTC") for scope, payer in payers.items()} == {
        "org": (Budget(Unit.USD, 1000_000_000_000, "month"),),
        "team:research": (
            Budget(Unit.USD, None, "lifetime"),
            Budget(Unit.USD, 200_000_000_000, "week"),
            Budget(Unit.USD, 50_000_000_000, "day@Europe:Berlin"),
        ),
        "user:ann@example.com": (Budget(Unit.TOKENS, 5, "lifetime"),),
        "tag:env=prod": (Budget(Unit.CALLS, 3, "lifetime"),),
        "tag:beta": (),
        "model:gpt-*": (Budget(Unit.USD, 2_500_000_000, "lifetime"),),
        "upstream:openai": (Budget(Unit.CALLS, 0, "lifetime"),),
    }
    assert read("").payers() == {}


def test_a_key_has_terms() -> None:
    key = read(
        """
        [keys.ci]
        team = "red"
        user = "*"
        tags = ["env=prod", "beta"]
        tags_required = ["job"]
        upstreams = ["open*"]
        networks = ["10.0.0.0/8", "::1"]
        expires = 2027-01-31
        """
    ).keys["ci"]
    assert (key.team, key.user, key.tags, key.tags_required) == ("red", "*", ("env=prod", "beta"), ("job",))
    assert (key.upstreams, key.networks) == (("open*",), ("10.0.0.0/8", "::1"))
    assert key.expires == 1_801_353_600 * SECOND


@pytest.mark.parametrize(
    ("expires", "seconds"),
    [
        ("2027-01-31T01:00:00+01:00", 1_801_353_600),
        ('"2027-01-31"', 1_801_353_600),
        ('"2027-01-31T00:00:01Z"', 1_801_353_601),
    ],
)
def test_an_end_is_a_date_or_a_time_with_its_zone(expires: str, seconds: int) -> None:
    assert read(f"[keys.ci]\nexpires = {expires}").keys["ci"].expires == seconds * SECOND


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[tags."ENV=prod"]', "is not a tag"),
        ('[tags."env=a b"]', "is not a tag"),
        ('[keys.ci]\ntags = ["env=a", "env=b"]', "twice"),
        ('[keys.ci]\ntags_required = ["env=prod"]', "is not the name of a tag"),
        ('[keys.ci]\nnetworks = ["10.0.0.1/8"]', "has host bits set"),
        ('[keys.ci]\nteam = "*"', "only user can be left to the client"),
        ('[keys.ci]\nuser = "a b"', "is not a name"),
        ("[keys.ci]\nexpires = 2027-01-31T18:00:00", "has no time zone"),
        ('[keys.ci]\nexpires = "soon"', "is not a date"),
        ("[keys.ci]\nexpires = true", "keys.ci.expires"),
        ('[keys.ci]\nrole = "root"', "keys.ci.role"),
        ('[budgets."team:red"]', "is no budget"),
        ('[budgets."model:g*t"]', "is no budget"),
        ('[budgets."upstream:open*"]', "is no budget"),
        ('[teams."a/b"]', "teams"),
        ("[teams.red]\nmodels = []", "unknown key teams.red.models"),
        ('[teams.red]\nbudgets = [{usd="1",period="day"},{usd="2",period="day"}]', "[teams.red] has two budgets"),
        ("[defaults.run]\nhours = 0", "defaults.run.hours"),
    ],
)
def test_what_nobody_could_mean_refuses_to_start(text: str, says: str) -> None:
    with pytest.raises(SettingsError) as error:
        read(text)
    assert says in str(error.value)


def test_a_run_ends_when_it_was_idle_for_a_day_unless_somebody_says_otherwise() -> None:
    settings = read('[keys.slow]\nrun = { hours = 48 }\n[keys.ever]\nrun = { hours = "none" }\n[keys.ci]')
    assert [settings.run_template(key).hours for key in ("slow", "ever", "ci", "other")] == [48, None, 24, 24]
    forever = settings.without_idle_end()
    assert {forever.run_template(key).hours for key in ("slow", "ever", "ci", "other")} == {None}
    assert forever.run_template("slow").limits == settings.run_template("slow").limits
