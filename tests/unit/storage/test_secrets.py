import stat
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import ConfigError
from modelyard.storage.secrets import KeyRing, SecretError, load_key_ring, save_key_ring

RING = KeyRing({}).rotated()
ROW = {"tenant": "t", "kind": "credential", "row": "r"}


@given(st.text(max_size=200))
def test_encryption_round_trip(text: str):
    sealed = RING.encrypt(text, **ROW)
    assert RING.decrypt(sealed, **ROW) == text
    assert RING.encrypt(text, **ROW) != sealed
    assert len(text) < 4 or text not in sealed


@pytest.mark.parametrize(
    "changed_fields",
    [
        {"tenant": "u"},
        {"kind": "x"},
        {"row": "s"},
        {"tenant": "t|credential", "kind": ""},
    ],
)
def test_a_row_that_is_copied_elsewhere_cannot_be_read_there(
    changed_fields: dict[str, str],
):
    sealed = RING.encrypt("secret", **ROW)
    with pytest.raises(SecretError, match="belongs to another row"):
        RING.decrypt(sealed, **{**ROW, **changed_fields})


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_bit_that_flips_is_noticed(index: int, flip: int):
    sealed = bytearray(RING.encrypt("a secret", **ROW).encode())
    index %= len(sealed)
    sealed[index] ^= flip
    try:
        text = sealed.decode()
    except UnicodeDecodeError:
        return
    if text == RING.encrypt("a secret", **ROW):
        return
    with suppress(SecretError):
        # The last digit of base64 has bits that are ignored.
        assert RING.decrypt(text, **ROW) == "a secret"


def test_keys_are_rotated_by_their_ids():
    sealed, digest = RING.encrypt("secret", **ROW), RING.digest(b"key")
    newer = RING.rotated()
    assert newer.decrypt(sealed, **ROW) == "secret"
    assert not newer.is_current(sealed)
    assert newer.is_current(newer.encrypt("secret", **ROW))
    assert newer.matches(b"key", digest)
    assert not newer.matches(b"other", digest)
    ring_without_key = newer.without(RING.active)
    with pytest.raises(SecretError, match="another master key") as caught:
        ring_without_key.decrypt(sealed, **ROW)
    # Only the operator may learn which keys exist.
    assert RING.active not in str(caught.value)
    assert not ring_without_key.matches(b"key", digest)


def test_the_first_start_creates_a_private_key_file(tmp_path: Path):
    path = tmp_path / "home" / "master.key"
    ring = load_key_ring(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key_ring(path).keys == ring.keys
    save_key_ring(path, ring.rotated())
    assert list(load_key_ring(path).keys)[1:] == list(ring.keys)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key_ring(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "k1:short",
        "k1:" + "A" * 43,
        ":AbCdEfGhIjKlMnOpQrStUvWxYz0123456789abcdefg",
    ],
)
def test_a_malformed_key_is_refused(text: str):
    with pytest.raises(ConfigError, match="master key"):
        KeyRing.parse(text, source="here")
