"""Users and roles in the console: a superuser's, and in its look."""

from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from tests.operators import ROLES, create_roles

pytestmark = pytest.mark.django_db


@pytest.fixture
def superuser(settings: Any) -> Client:
    settings.WHITENOISE_AUTOREFRESH = True
    create_roles()
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def test_a_superuser_makes_a_user_with_a_role_who_can_log_in(superuser: Client) -> None:
    page = superuser.get("/admin/auth/user/add/").content.decode()
    assert 'type="checkbox" name="groups"' in page
    role = Group.objects.get(name="operator")
    fields = {"username": "otto", "password1": "Quiet-Harbour-7", "password2": "Quiet-Harbour-7", "is_staff": "on"}
    made = superuser.post("/admin/auth/user/add/", fields | {"usable_password": "true", "groups": [role.pk]})
    assert made.status_code == 302
    assert "operator" in superuser.get("/admin/auth/user/").content.decode()
    otto = Client()
    assert otto.login(username="otto", password="Quiet-Harbour-7")
    assert otto.get("/admin/integrations/modelconfig/").status_code == 200
    assert otto.get("/admin/auth/user/").status_code == 403


def test_the_roles_are_made_once_and_then_left_as_they_were_changed(superuser: Client) -> None:
    assert set(Group.objects.values_list("name", flat=True)) >= set(ROLES)
    viewer = Group.objects.get(name="viewer")
    viewer.permissions.clear()
    create_roles()
    assert not viewer.permissions.exists()
    assert superuser.get(f"/admin/auth/group/{viewer.pk}/change/").status_code == 200
