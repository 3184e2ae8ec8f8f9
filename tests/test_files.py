import pytest

from scaling.errors import UserError
from scaling.files import user_path


def test_only_a_tilde_at_the_start_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("X", "no")
    for given, path in {
        "~": "/home/me",
        "~/a b/c": "/home/me/a b/c",
        "a/~/b": "a/~/b",
        "a~": "a~",
        "$X/*": "$X/*",
        "/a": "/a",
    }.items():
        assert str(user_path(given, "--workdir")) == path


def test_paths_that_name_nothing_are_told():
    with pytest.raises(UserError, match="--workdir is empty"):
        user_path("", "--workdir")
    with pytest.raises(UserError, match="--workdir is ~no-such-user/a, an unknown home"):
        user_path("~no-such-user/a", "--workdir")
