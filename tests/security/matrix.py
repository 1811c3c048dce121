"""Who gets what answer from which route. A new route without a line here fails test_s10_idor.

A line is the route's name and one of the rules below. A rule has an answer for each role, in the order of
`world.ROLES`: nobody logged in, the member to whom assignment and token belong, another member of the same
model, a member of another model only, staff.
"""

from __future__ import annotations

from enum import Enum


class Answer(Enum):
    """What a role may get."""

    #: Anything but a refusal to see it: also 400, 409 and 422, since the tests send empty bodies.
    OK = "ok"
    LOGIN = "sent to the login"
    UNAUTHENTICATED = "401"
    MISSING = "404"


OK, LOGIN, NO, MISSING = Answer.OK, Answer.LOGIN, Answer.UNAUTHENTICATED, Answer.MISSING

#: REST.
API_ALL = (NO, OK, OK, OK, OK)
API_MEMBER = (NO, OK, OK, MISSING, OK)
API_OWN = (NO, OK, MISSING, MISSING, MISSING)
API_STAFF = (NO, MISSING, MISSING, MISSING, OK)
#: Pages.
ALL = (LOGIN, OK, OK, OK, OK)
MEMBER = (LOGIN, OK, OK, MISSING, OK)
OWN = (LOGIN, OK, MISSING, MISSING, MISSING)
STAFF = (LOGIN, MISSING, MISSING, MISSING, OK)
#: Open to the world.
PUBLIC = (OK, OK, OK, OK, OK)
NOWHERE = (MISSING, MISSING, MISSING, MISSING, MISSING)

MATRIX = {
    # Nobody needs to be logged in for these.
    "login": PUBLIC,
    "healthz": PUBLIC,
    "readyz": PUBLIC,
    "api-missing": NOWHERE,
    # Says that the link is no longer good, or asks for a new password: whoever has a link may.
    "person-link": PUBLIC,
    # Staff and labelers alike, each for themselves.
    "home": ALL,
    "logout": ALL,
    "account": ALL,
    "password_change": ALL,
    # Says the same to whoever has no such token; test_s17_tokens looks that it stays.
    "token-revoke": ALL,
    "api-docs": ALL,
    "api-schema": API_ALL,
    "api-tokens": API_ALL,
    "api-token": API_OWN,
    "api-models": API_ALL,
    # Whoever judges the model.
    "judge": MEMBER,
    "judge_prompt": MEMBER,
    "api-attacks": API_MEMBER,
    "history": MEMBER,
    "guidelines": MEMBER,
    "judge_next": MEMBER,
    "judge_keep": MEMBER,
    "api-model": API_MEMBER,
    "api-assignments": API_MEMBER,
    "api-history": API_MEMBER,
    # Only the one whose assignment it is.
    "judgement": OWN,
    "history-judgement": OWN,
    "judgement_undo": OWN,
    "judgement_later": OWN,
    "judgement_flag": OWN,
    "judge_view": OWN,
    "api-judgement": API_OWN,
    # Staff.
    "admin-login": (LOGIN, MISSING, MISSING, MISSING, MISSING),
    "rounds": STAFF,
    "round": STAFF,
    "round-cancel": STAFF,
    "versions": STAFF,
    "versions-rollback": STAFF,
    "version": STAFF,
    "version-promote": STAFF,
    "version-triples": STAFF,
    "version-card": STAFF,
    "version-adapter": STAFF,
    "pair": STAFF,
    "prompts": STAFF,
    "triples": STAFF,
    "triples-file": STAFF,
    "triples-import": STAFF,
    "compare": STAFF,
    "compare-ask": STAFF,
    "compare-answers": STAFF,
    "compare-close": STAFF,
    "api-import": API_STAFF,
    "api-comparisons": API_STAFF,
    "api-comparison": API_STAFF,
    "api-comparison-close": API_STAFF,
    "people": STAFF,
    "person-change": STAFF,
    "quality": STAFF,
    "quality-gold": STAFF,
    "quality-gold-retire": STAFF,
    "quality-lease": STAFF,
    "quality-leases": STAFF,
    "quality-flag": STAFF,
    "api-quality": API_STAFF,
    "api-golds": API_STAFF,
    "api-gold": API_STAFF,
    "settings": STAFF,
    "settings-group": STAFF,
    "playground": STAFF,
    "play": STAFF,
    "play-pick": STAFF,
    "api-plays": API_STAFF,
    "api-play": API_STAFF,
    "api-play-pick": API_STAFF,
    "api-prompts": API_STAFF,
    "api-judgements": API_STAFF,
    "api-triples": API_STAFF,
    "api-rounds": API_STAFF,
    "api-round": API_STAFF,
    "api-round-cancel": API_STAFF,
    "api-versions": API_STAFF,
    "api-version": API_STAFF,
    "api-version-card": API_STAFF,
    "api-version-adapter": API_STAFF,
    "api-alias": API_STAFF,
}
