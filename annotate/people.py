"""Everything that is written about people: who there is, who is an admin, who may judge which model.

An admin is whoever is staff, and all admins are equal. A superuser is an admin, too; Django asks for more than
staff only at the queue's own tables. Nobody is ever deleted: judgements keep their labelers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.contrib.auth.models import Group, User
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.contrib.sessions.models import Session
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from annotate import judging
from models_registry.models import Membership, PersonChange, RegisteredModel
from pairloop.lib.errors import Refused

LABELERS = "labelers"
Kind = PersonChange.Kind


class PersonExists(Refused):
    """Somebody has this username already. Choose another one, or add that person to the model."""

    code = "person_exists"


class PersonInvalid(Refused):
    """The person's fields are not valid."""

    code = "person_invalid"


class PersonInactive(Refused):
    """This person is deactivated. Reactivate them first."""

    code = "person_inactive"


class IsOneself(Refused):
    """You cannot deactivate yourself, nor take your own admin rights away. Ask another admin."""

    code = "is_oneself"


class IsLastAdmin(Refused):
    """This is the last active admin, and somebody has to look after Pairloop. Make another one first."""

    code = "is_last_admin"


class Links(PasswordResetTokenGenerator):
    """Signs links to set a password: they work once, for settings.PASSWORD_RESET_TIMEOUT seconds."""

    def _make_hash_value(self, user: User, timestamp: int) -> str:
        """Let a newer link, and being deactivated, end the links before."""
        ends = [Kind.ADDED, Kind.LINK_MADE, Kind.DEACTIVATED]
        last = PersonChange.objects.filter(person=user, kind__in=ends).order_by("-pk").first()
        return f"{super()._make_hash_value(user, timestamp)}{last.pk if last else 0}"


LINKS = Links()


@dataclass(frozen=True, slots=True)
class Link:
    """What the address of a page to set a password is made of."""

    uid: str
    token: str


@transaction.atomic
def person_add(
    *,
    username: str,
    name: str = "",
    email: str = "",
    is_admin: bool = False,
    model: RegisteredModel | None,
    by: User | None,
    now: datetime,
) -> User:
    """Make an account without a password; a labeler may judge the model at once, an admin all of them.

    Raises PersonExists, PersonInvalid.
    """
    if User.objects.filter(username__iexact=username).exists():
        raise PersonExists
    person = User(username=username, first_name=name, email=email, is_staff=is_admin)
    person.set_unusable_password()
    try:
        person.full_clean()
    except ValidationError as error:
        raise PersonInvalid(" ".join(error.messages)) from error
    try:
        with transaction.atomic():
            person.save()
    except IntegrityError as error:
        # The other click of two was faster.
        raise PersonExists from error
    _keep(person, Kind.ADDED, by=by, now=now)
    if is_admin:
        _keep(person, Kind.ADMIN_GIVEN, by=by, now=now)
        return person
    person.groups.add(labelers())
    if model:
        member_add(model=model, person=person, by=by, now=now)
    return person


def labelers() -> Group:
    """Return the group of those who only judge."""
    return Group.objects.get_or_create(name=LABELERS)[0]


@transaction.atomic
def link_make(*, person: User, by: User | None, now: datetime) -> Link:
    """Make a link to set a password; the ones before stop working. Raises PersonInactive."""
    locked = _locked(person)
    if not locked.is_active:
        raise PersonInactive
    _keep(locked, Kind.LINK_MADE, by=by, now=now)
    uid = urlsafe_base64_encode(force_bytes(locked.pk))
    return Link(uid=uid, token=LINKS.make_token(locked))


def password_noted(*, person: User, now: datetime) -> None:
    """Keep that somebody set their own password."""
    _keep(person, Kind.PASSWORD_SET, by=person, now=now)


# --- Members -------------------------------------------------------------------------------------------


@transaction.atomic
def member_add(
    *, model: RegisteredModel, person: User, by: User | None, now: datetime
) -> Membership:
    """Let somebody judge pairs of a model; again, nothing changes."""
    membership, is_new = Membership.objects.get_or_create(model=model, user=person)
    if is_new:
        _keep(person, Kind.MEMBER_ADDED, model=model, by=by, now=now)
    return membership


@transaction.atomic
def member_remove(*, model: RegisteredModel, person: User, by: User | None, now: datetime) -> None:
    """Let somebody judge a model no more: what they hold is free again, what they judged stays."""
    locked = _locked(person)
    removed, _ = Membership.objects.filter(model=model, user=locked).delete()
    if not removed:
        return
    _keep(locked, Kind.MEMBER_REMOVED, model=model, by=by, now=now)
    if not locked.is_staff:
        judging.leases_give_back(labeler=locked, model=model, now=now)


# --- Accounts ------------------------------------------------------------------------------------------


@transaction.atomic
def person_deactivate(*, person: User, by: User | None, now: datetime) -> None:
    """Lock somebody out at once and give what they hold back. Raises IsOneself, IsLastAdmin."""
    if person == by:
        raise IsOneself
    _another_admin_than(person)
    locked = _locked(person)
    if not locked.is_active:
        return
    _set(locked, is_active=False)
    _keep(locked, Kind.DEACTIVATED, by=by, now=now)
    _sessions_end(locked)
    judging.leases_give_back(labeler=locked, now=now)


@transaction.atomic
def person_reactivate(*, person: User, by: User | None, now: datetime) -> None:
    """Let somebody in again, with the same password, role and models as before."""
    locked = _locked(person)
    if locked.is_active:
        return
    _set(locked, is_active=True)
    _keep(locked, Kind.REACTIVATED, by=by, now=now)


@transaction.atomic
def admin_give(*, person: User, by: User | None, now: datetime) -> None:
    """Make somebody an admin. Raises PersonInactive."""
    locked = _locked(person)
    if not locked.is_active:
        raise PersonInactive
    if locked.is_staff:
        return
    _set(locked, is_staff=True)
    locked.groups.remove(labelers())
    _keep(locked, Kind.ADMIN_GIVEN, by=by, now=now)


@transaction.atomic
def admin_take(*, person: User, by: User | None, now: datetime) -> None:
    """Make an admin a labeler, who judges the models they are a member of. Raises IsOneself, IsLastAdmin."""
    if person == by:
        raise IsOneself
    _another_admin_than(person)
    locked = _locked(person)
    if not locked.is_staff:
        return
    _set(locked, is_staff=False, is_superuser=False)
    locked.groups.add(labelers())
    _keep(locked, Kind.ADMIN_TAKEN, by=by, now=now)
    judging.leases_give_back(labeler=locked, now=now)


def _another_admin_than(person: User) -> None:
    """Lock the active admins, so that two of them cannot end each other. Raises IsLastAdmin."""
    active = User.objects.select_for_update(no_key=True).filter(is_staff=True, is_active=True)
    admins = {admin.pk for admin in active.order_by("pk")}
    if admins == {person.pk}:
        raise IsLastAdmin


def _locked(person: User) -> User:
    return User.objects.select_for_update(no_key=True).get(pk=person.pk)


def _set(person: User, **flags: bool) -> None:
    User.objects.filter(pk=person.pk).update(**flags)
    for name, value in flags.items():
        setattr(person, name, value)


def _sessions_end(person: User) -> None:
    """Delete somebody's sessions, which would work again once they are reactivated. Reads every session."""
    own = [
        session.pk
        for session in Session.objects.iterator()
        if session.get_decoded().get("_auth_user_id") == str(person.pk)
    ]
    Session.objects.filter(pk__in=own).delete()


def _keep(
    person: User,
    kind: str,
    *,
    model: RegisteredModel | None = None,
    by: User | None,
    now: datetime,
) -> None:
    PersonChange.objects.create(person=person, kind=kind, model=model, made_by=by, made_at=now)
