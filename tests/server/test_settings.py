"""Settings from arguments and the environment."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from server.settings import Settings


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENHAND_PORT", "1234")
    monkeypatch.setenv("EVENHAND_SERVED_MODEL_NAME", "a, b")
    monkeypatch.setenv("EVENHAND_API_KEYS", "k1,k2")
    assert Settings().port == 1234
    assert Settings(port=99).port == 99
    assert Settings().names == ("a", "b")
    assert [key.get_secret_value() for key in Settings().api_keys] == ["k1", "k2"]
    assert "k1" not in repr(Settings())


def test_a_model_without_a_name_is_called_as_its_folder() -> None:
    assert Settings().names == ("pocket",)
    assert Settings(model=Path("/somewhere/tiny")).names == ("tiny",)
    assert Settings(model=Path("/somewhere/tiny"), served_model_name=("x",)).names == ("x",)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]
