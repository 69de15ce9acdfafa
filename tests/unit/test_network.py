"""Which proxy, which authorities, which headers: the rules, without a network."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping

import pytest

from guestctl.core.errors import UsageError
from guestctl.transport.hosts import authority, is_loopback, target, why
from guestctl.transport.network import Network, checked
from guestctl.transport.proxies import Proxy


def proxy(url: str, environ: Mapping[str, str]) -> str | None:
    found = Network(ca=None, environ=environ).proxy_for(url)
    return None if found is None else str(found)


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        ("http://a.example/", {}, None),
        ("http://a.example/", {"HTTP_PROXY": "http://p:1"}, "p:1"),
        ("ws://a.example/", {"http_proxy": "http://p:1"}, "p:1"),
        ("https://a.example/", {"HTTP_PROXY": "http://p:1"}, None),
        ("wss://a.example/", {"HTTPS_PROXY": "http://p:1"}, "p:1"),
        ("https://a.example/", {"https_proxy": "http://low:1", "HTTPS_PROXY": "http://up:1"}, "low:1"),
        ("https://a.example/", {"ALL_PROXY": "http://p:1"}, "p:1"),
        ("https://a.example/", {"all_proxy": "http://p:1"}, "p:1"),
        ("wss://a.example/", {"all_proxy": "http://p:1", "HTTPS_PROXY": "http://q:2"}, "q:2"),
        ("https://a.example/", {"HTTPS_PROXY": "p.example:3128"}, "p.example:3128"),
        ("https://a.example/", {"HTTPS_PROXY": "http://p.example"}, "p.example:80"),
        ("https://a.example/", {"HTTPS_PROXY": " http://[::1]:8 "}, "[::1]:8"),
        ("https://a.example/", {"HTTPS_PROXY": "https://p.example"}, "p.example:443"),
        ("https://a.example/", {"HTTPS_PROXY": "socks5://p.example"}, "p.example:1080"),
        ("wss://a.example/", {"ALL_PROXY": "SOCKS5H://p:9/"}, "p:9"),
        ("http://a.example/", {"ALL_PROXY": "socks4://p"}, "p:1080"),
        ("ws://a.example/", {"HTTP_PROXY": "socks4a://user@[::1]:9"}, "[::1]:9"),
        ("https://a.example/", {"HTTPS_PROXY": ""}, None),
    ],
)
def test_which_proxy(url: str, environ: dict[str, str], expected: str | None) -> None:
    assert proxy(url, environ) == expected


@pytest.mark.parametrize(
    ("no_proxy", "url", "bypassed"),
    [
        ("*", "https://a.example/", True),
        ("a.example", "https://a.example/", True),
        ("a.example", "https://x.a.example/", True),
        (".a.example", "https://x.a.example/", True),
        (".a.example", "https://a.example/", True),
        ("*.a.example", "https://x.a.example/", True),
        ("A.Example", "https://a.EXAMPLE./", True),
        (".example.com", "https://evilexample.com/", False),
        ("example.com", "https://evilexample.com/", False),
        ("b.example, a.example", "https://a.example/", True),
        ("b.example a.example", "wss://a.example/", True),
        ("a.example:443", "https://a.example/", True),
        ("a.example:443", "wss://a.example/", True),
        ("a.example:8443", "https://a.example/", False),
        ("a.example:8443", "https://a.example:8443/", True),
        ("10.0.0.0/8", "https://10.1.2.3/", True),
        ("10.0.0.0/8", "https://11.1.2.3/", False),
        ("10.1.2.3", "https://10.1.2.3/", True),
        ("10.1.2.3:443", "https://10.1.2.3/", True),
        ("2001:db8::/32", "https://[2001:db8::1]/", True),
        ("[2001:db8::1]:443", "https://[2001:db8::1]/", True),
        ("a.example", "https://10.1.2.3/", False),
        (",, ", "https://a.example/", False),
        (".", "https://a.example/", False),
        ("b.example,a.example", "https://a.example/", True),
        ("a.example.", "https://a.example/", True),
        ("10.1.2.3/8", "https://10.9.9.9/", True),
        ("10.1.2.3:80", "https://10.1.2.3/", False),
        ("2001:db8::443", "https://[2001:db8::443]/", True),
        ("2001:db8::1:80", "https://[2001:db8::1]:80/", False),
        ("[2001:db8::1]", "https://[2001:db8::1]/", True),
        ("x.example", "https://x/", False),
        ("xample", "https://example/", False),
    ],
)
def test_no_proxy(no_proxy: str, url: str, bypassed: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        assert (proxy(url, {"ALL_PROXY": "http://p:1", name: no_proxy}) is None) == bypassed


def test_loopback_needs_no_bypass() -> None:
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "[::1]", "sandbox.localhost"):
        assert proxy(f"http://{host}:1/", {"ALL_PROXY": "http://p:1"}) is None


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("socks://p:1", "socks:// proxies are not supported"),
        ("ftp://p:1", "ftp:// proxies are not supported"),
        ("http://bad host:1", "not the address of a proxy"),
        ("http://<host>", "not the address of a proxy"),
        ("http://p:0", "not the address of a proxy"),
        ("socks5://me@p:1", "a SOCKS5 proxy takes a user name and a password, or neither"),
        ("socks5h://:word@p:1", "a SOCKS5 proxy takes a user name and a password, or neither"),
        ("socks4a://me:word@p:1", "a SOCKS4 proxy takes no password"),
        (f"socks5://me:{'x' * 128}@p:1", "a user name or password of a SOCKS proxy has at most 127 bytes"),
        ("http://", "not the address of a proxy"),
        ("http://p:port", "not the address of a proxy"),
        ("http://me:se/cret@p:1", "not the address of a proxy"),
        ("http://me:1/cret@p:1", "not the address of a proxy; write / ? # in a password as %2F %3F %23"),
        ("http://me:se#cret@p:1", "not the address of a proxy"),
        ("http://[::1", "not the address of a proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used(value: str, wrong: str) -> None:
    with pytest.raises(UsageError) as caught:
        proxy("https://a.example/", {"HTTPS_PROXY": value})
    assert caught.value.message == f"HTTPS_PROXY: {wrong}"
    assert (caught.value.code, caught.value.hint) == (
        "config.key",
        "use the form SCHEME://[user:password@]host:port; SCHEME is one of "
        "http, https, socks5h, socks5, socks4a, socks4",
    )
    assert proxy("https://a.example/", {"HTTPS_PROXY": value, "NO_PROXY": "a.example"}) is None


def test_a_proxys_credentials_are_decoded_and_not_shown() -> None:
    found = Network(ca=None, environ={"ALL_PROXY": "http://me%40x:can%3Aary@p:1"}).proxy_for("https://a.example/")
    assert found is not None
    assert found.username == "me@x"
    assert found.password is not None
    assert found.password.reveal() == "can:ary"
    assert found.authorization == "Basic bWVAeDpjYW46YXJ5"
    assert "can" not in repr(found) + str(found)
    assert Proxy("p", 1, "me").authorization == "Basic bWU6"
    assert Proxy("p", 1).authorization is None


def test_the_context() -> None:
    network = Network(ca=None, environ={})
    context = network.ssl_context()
    assert context is network.ssl_context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "localhost.example", "128.0.0.1", "0.0.0.0", "::", "127.0.0.1.example", "10.0.0.1"]
)
def test_other_machines(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("url", ["http://a.example/?t=canary", "ws://a.example/?t=canary"])
def test_nothing_goes_in_the_clear_unless_it_is_allowed(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Network(ca=None, environ={}).permit(url)
    assert caught.value.code == "config.cleartext"
    assert caught.value.message.startswith("a.example:80 has no TLS: ")
    Network(ca=None, environ={}, cleartext=True).permit(url)
    for other in ("https://a.example/", "wss://a.example/", "http://127.0.0.1:1/", "ws://localhost/"):
        Network(ca=None, environ={}).permit(other)


def test_authorities_by_default_are_the_systems() -> None:
    assert Network(ca=None, environ={"SSL_CERT_FILE": ""}).authorities() == ("default", None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ssl.SSLError("canary"), "SSLError"),
        (OSError(13, "Permission denied", "/canary"), "Permission denied"),
        (OSError("canary"), "OSError"),
        (TimeoutError("canary"), "timed out"),
        (http.client.RemoteDisconnected("canary"), "closed without a response"),
        (http.client.BadStatusLine("canary"), "BadStatusLine"),
    ],
)
def test_causes_are_described_in_guestctls_words(error: Exception, words: str) -> None:
    assert why(error) == words


def test_a_tls_reason_is_described_in_plain_words() -> None:
    error = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] canary")
    error.reason = "WRONG_VERSION_NUMBER"
    assert why(error) == "wrong version number"


def test_targets() -> None:
    assert target("https://A.example/x?y") == (True, "a.example", 443)
    assert target("ws://a.example.:81") == (False, "a.example", 81)
    assert target("wss://[::1]:1/") == (True, "::1", 1)
    assert authority("::1", 1) == "[::1]:1"
    for url in ("", "x", "ftp://a/", "http://", "http://a:b/", "http://a:99999/", "http://[::1"):
        with pytest.raises(UsageError) as caught:
            target(url)
        assert caught.value.message in {
            "an address is not an http, https, ws or wss URL",
            "an address has no host",
        }
    with pytest.raises(UsageError, match="an address has no host"):
        target("http://:80/")


def test_headers() -> None:
    good = {"Authorization": "Bearer a.b-c", "X": "a\tb", "Empty": ""}
    assert checked(good) == good
    for value in ("a\r\nb", "a\n", "\x00", "é", " a", "a ", "\x7f"):
        with pytest.raises(UsageError) as caught:
            checked({"X": value})
        assert caught.value.code == "usage"
        assert caught.value.message == "the X header contains characters that a header may not contain"
        with pytest.raises(UsageError) as caught:
            checked({"authorization": value})
        assert caught.value.code == "auth.secret"
