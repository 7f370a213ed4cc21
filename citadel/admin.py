"""Who may use the console: Django's users and groups, in its look.

Only a superuser edits them: who could give a role could give themselves any.
"""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import ManyToManyField

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin as UnfoldAdmin
    from django.contrib.auth.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
    from django.forms import CheckboxSelectMultiple as Boxes
else:
    from unfold.admin import ModelAdmin as UnfoldAdmin
    from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
    from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget as Boxes

admin.site.unregister(User)
admin.site.unregister(Group)


# Groups and permissions as boxes: Django's two lists with a filter are not for screen readers.
_BOXES: Any = {ManyToManyField: {"widget": Boxes}}


@admin.register(User)
class OperatorUserAdmin(UserAdmin, UnfoldAdmin):  # type: ignore[type-arg]  # Unfold's class, which takes none
    """Operators."""

    form = UserChangeForm
    filter_horizontal = ()
    formfield_overrides = _BOXES
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "roles", "is_active", "is_staff", "is_superuser", "last_login")
    list_filter = ("groups", "is_active", "is_staff", "is_superuser")
    add_fieldsets = (
        (None, {"fields": ("username", "usable_password", "password1", "password2", "is_staff", "groups")}),
    )

    def get_changeform_initial_data(self, request: Any) -> Any:
        """A user is made in order to use the console."""
        return {"is_staff": True}

    def get_queryset(self, request: Any) -> Any:
        """All of them, with their roles."""
        return super().get_queryset(request).prefetch_related("groups")

    @admin.display(description="roles")
    def roles(self, user: User) -> str:
        """The groups that say what a user may do."""
        return ", ".join(sorted(group.name for group in user.groups.all()))


@admin.register(Group)
class RoleAdmin(GroupAdmin, UnfoldAdmin):  # type: ignore[type-arg]  # as above
    """Roles: viewer, operator, administrator, and what an installation adds."""

    filter_horizontal = ()
    formfield_overrides = _BOXES
