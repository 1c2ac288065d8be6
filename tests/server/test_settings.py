"""Settings from arguments and the environment."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from server.errors import PlanError
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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("EVENHAND_PROT", "got EVENHAND_PROT; did you mean EVENHAND_PORT"),
        ("evenhand_quue_limit", "got EVENHAND_QUUE_LIMIT; did you mean EVENHAND_QUEUE_LIMIT"),
        ("EVENHAND_API_KEY", "got EVENHAND_API_KEY; did you mean EVENHAND_API_KEYS"),
        ("EVENHAND_", "got EVENHAND_; take it away"),
    ],
)
def test_a_misspelt_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setenv(name, "secret")
    with pytest.raises(PlanError) as caught:
        Settings()
    assert str(caught.value) == f"environment variable must be one that this server knows, {said}"


def test_a_misspelt_key_is_refused() -> None:
    with pytest.raises(PlanError, match="got quelimit; did you mean queue_limit"):
        Settings(quelimit=3)  # type: ignore[call-arg]
    with pytest.raises(PlanError, match="got prot; did you mean port"):
        Settings.model_validate({"prot": 1})


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENHANDED_PROT", "1")
    monkeypatch.setenv("MY_EVENHAND_PROT", "1")
    monkeypatch.setenv("PROT", "1")
    monkeypatch.setenv("evenhand_port", "7")
    assert Settings().port == 7
