"""Certificates, keys and tokens: what is refused, in one line that names the file."""

import pytest

from certificates import make_certificate
from uml_dist.errors import UmlError
from uml_dist.telemetry.access import Access, read_access


@pytest.fixture
def token(tmp_path):
    """Return a function that writes a file of a token."""

    def write(data: bytes, mode: int = 0o600) -> str:
        path = tmp_path / "token"
        path.write_bytes(data)
        path.chmod(mode)
        return str(path)

    return write


def test_without_files_everything_is_allowed_over_http():
    assert (Access().allows(None), Access().scheme, read_access()) == (True, "http", Access())


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("Bearer s3cret-/+=", True),
        ("bearer  s3cret-/+= ", True),
        (None, False),
        ("", False),
        ("Bearer", False),
        ("Bearer ", False),
        ("Basic s3cret-/+=", False),
        ("s3cret-/+=", False),
        ("Bearer s3cret-/+=x", False),
        ("Bearer s3cret", False),
        ("Bearer S3CRET-/+=", False),
        ("Bearer \xff\xfe", False),
        ("Bearer 肺", False),
    ],
)
def test_only_the_token_is_allowed(token, header, allowed):
    assert read_access(token_file=token(b"s3cret-/+=\n")).allows(header) == allowed


@pytest.mark.parametrize("data", [b"", b" \n\t\n", b"two words", b"two\nlines", b"x" * 5000, "肺".encode(), b"a\x00b"])
def test_a_file_without_a_token_is_refused(token, data):
    with pytest.raises(UmlError, match="does not contain a token: write one line") as caught:
        read_access(token_file=token(data))
    assert "\n" not in str(caught.value)


def test_a_missing_token_file_is_refused(tmp_path):
    with pytest.raises(UmlError, match=f"metrics.token_file {tmp_path}/none cannot be read: No such file or directory"):
        read_access(token_file=f"{tmp_path}/none")
    with pytest.raises(UmlError, match="cannot be read: Is a directory"):
        read_access(token_file=str(tmp_path))


def test_files_that_others_can_read_are_noted(token, tmp_path):
    certificate, key = make_certificate(tmp_path)
    key.chmod(0o640)
    access = read_access(str(certificate), str(key), token(b"secret", 0o644))
    assert access.notes == (
        f"metrics.key {key} can be read by other users: chmod 600 it",
        f"metrics.token_file {tmp_path}/token can be read by other users: chmod 600 it",
    )
    key.chmod(0o600)
    assert read_access(str(certificate), str(key), token(b"secret")).notes == ()


def test_files_that_are_no_certificate_and_key_are_refused(tmp_path):
    certificate, key = make_certificate(tmp_path)
    _, other = make_certificate(tmp_path, "other")
    text = tmp_path / "text"
    text.write_text("no PEM")
    with pytest.raises(UmlError, match="KEY_VALUES_MISMATCH"):
        read_access(str(certificate), str(other))
    for pair in ((text, key), (certificate, text), (key, certificate)):
        with pytest.raises(UmlError, match="cannot be used") as caught:
            read_access(*map(str, pair))
        assert "\n" not in str(caught.value)
    with pytest.raises(UmlError, match=r"metrics.certificate .*none cannot be read: No such file"):
        read_access(f"{tmp_path}/none", str(key))
    with pytest.raises(UmlError, match=r"metrics.key .*none cannot be read: No such file"):
        read_access(str(certificate), f"{tmp_path}/none")


def test_a_key_with_a_password_is_refused_without_asking_for_it(tmp_path):
    certificate, key = make_certificate(tmp_path, password="secret")
    with pytest.raises(UmlError, match=f"metrics.key {key} needs a password: name a key without one"):
        read_access(str(certificate), str(key))
