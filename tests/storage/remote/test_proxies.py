"""Archives behind HTTP proxies, which the environment or options name."""

import base64

import pytest
from support.archives import write_tar
from support.servers.program import free_port
from support.servers.proxy import proxy

import imagearchive
from imagearchive.errors import OptionError, RemoteAccessError, RemoteError

# A host that does not exist, so that only a proxy leads to its files.
HOST = "files.invalid"
# moto takes the beginning of other names for a bucket.
NOBODY = "http://localhost"
ONCE = {"retry_config": {"max_retries": 0}}
USER = "reader:only-for-tests"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def tar(tmp_path, pictures):
    return write_tar(tmp_path / "images.tar", pictures).read_bytes()


@pytest.fixture
def url(faulty_server, tar):
    faulty_server.put({"images.tar": tar})
    return f"http://{HOST}/images.tar"


def read(url, options=None):
    """Read an archive by a client of its own: each reads the environment once."""
    agent = {"user_agent": f"test-{free_port()}"}
    options = {**ONCE, **(options or {})}
    options["client_options"] = {**agent, **options.get("client_options", {})}
    with imagearchive.open(url, storage_options=options, overwrite_index=True) as archive:
        return dict(archive)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_http_proxy_of_the_environment_is_used(faulty_server, url, pictures, monkeypatch, name):
    with proxy(faulty_server.port) as server:
        monkeypatch.setenv(name, server.url())
        assert read(url) == pictures
    assert ("GET", url) in server.requests
    assert faulty_server.requests[0].headers["host"] == HOST


def test_https_proxy_leads_to_a_server_with_its_certificate(nginx, tar, pictures, monkeypatch):
    (nginx.files / "proxied.tar").write_bytes(tar)
    certificate = nginx.certificate.read_text()
    with proxy(nginx.tls_port) as server:
        monkeypatch.setenv("HTTPS_PROXY", server.url())
        options = {"client_options": {"root_certificate": certificate}}
        assert read("https://localhost/proxied.tar", options) == pictures
        # The certificate is compared with the name of the server, not with that of the proxy.
        with pytest.raises(RemoteError, match="certificate of the server is not trusted"):
            read(f"https://{HOST}/proxied.tar", options)
    assert set(server.requests) == {("CONNECT", "localhost:443"), ("CONNECT", f"{HOST}:443")}


@pytest.mark.parametrize(
    ("excluded", "used"),
    [
        ("127.0.0.1", False),
        ("other.invalid, 127.0.0.0/8", False),
        ("127.0.0.1:{port}", False),
        ("*", False),
        ("127.0.0.1:1,10.0.0.0/8,0.0.1,", True),
    ],
)
def test_no_proxy_names_servers_that_are_asked_directly(
    faulty_server, url, pictures, monkeypatch, excluded, used
):
    with proxy(faulty_server.port) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url())
        monkeypatch.setenv("NO_PROXY", excluded.format(port=faulty_server.port))
        assert read(faulty_server.url("images.tar")) == pictures
    assert bool(server.requests) == used


@pytest.mark.parametrize(("excluded", "used"), [(".invalid", False), ("les.invalid", True)])
def test_no_proxy_domain_contains_its_hosts(faulty_server, url, monkeypatch, excluded, used):
    with proxy(faulty_server.port) as server:
        options = {"proxy_url": server.url(), "proxy_excludes": excluded}
        if used:
            read(url, {"client_options": options})
        else:
            with pytest.raises(RemoteError, match="there is no such host"):
                read(url, {"client_options": options})
    assert bool(server.requests) == used


def test_proxy_option_is_used_instead_of_the_environment(faulty_server, url, pictures, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://other.invalid")
    monkeypatch.setenv("NO_PROXY", "*")
    with proxy(faulty_server.port) as server:
        assert read(url, {"client_options": {"proxy_url": server.url()}}) == pictures
    assert server.requests


def test_proxy_password_is_sent_to_the_proxy_only(faulty_server, url, pictures, monkeypatch):
    with proxy(faulty_server.port, USER) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url(USER))
        assert read(url) == pictures
    secret = base64.b64encode(USER.encode()).decode()
    assert secret not in str([request.headers for request in faulty_server.requests])


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_denies_access_is_an_error_without_the_password(nginx, monkeypatch, scheme):
    with proxy(nginx.port, USER) as server:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", server.url("reader:wrong"))
        with pytest.raises(
            RemoteAccessError, match=r"files\.invalid/a\.tar: .*proxy.*407"
        ) as caught:
            read(f"{scheme}://{HOST}/a.tar")
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_is_not_there_is_an_error_that_names_it(monkeypatch, scheme):
    port = free_port()
    monkeypatch.setenv("ALL_PROXY", f"http://reader:hidden@127.0.0.1:{port}")
    with pytest.raises(RemoteError, match=rf"refused \(through the proxy 127.0.0.1:{port}\)"):
        read(f"{scheme}://{HOST}/a.tar")
    monkeypatch.setenv("ALL_PROXY", "http://reader:hidden@proxy.invalid")
    with pytest.raises(RemoteError, match=r"no such proxy as proxy\.invalid:80"):
        read(f"{scheme}://{HOST}/a.tar")


@pytest.mark.parametrize(
    "wrong", ["socks5://reader:hidden@host:1", "https://h", "http://h:port", "http://[h"]
)
def test_proxy_that_cannot_be_used_is_an_error(monkeypatch, wrong):
    monkeypatch.setenv("HTTPS_PROXY", wrong)
    with pytest.raises(OptionError, match="HTTPS_PROXY must be an address such as") as caught:
        read(f"https://{HOST}/a.tar")
    assert "hidden" not in str(caught.value)


def test_bucket_is_read_through_the_proxy_of_the_environment(moto, tar, pictures, monkeypatch):
    moto.put("proxied/images.tar", tar)
    options = {**moto.storage_options, "endpoint": NOBODY}
    with proxy(moto.port, USER) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url(USER))
        assert read("s3://data/proxied/images.tar", options) == pictures
        for scheme in ("http", "https"):
            monkeypatch.setenv(f"{scheme.upper()}_PROXY", server.url("reader:wrong"))
            options["endpoint"] = f"{scheme}://localhost"
            with pytest.raises(RemoteAccessError, match=r"images\.tar: .*proxy.*407") as caught:
                read("s3://data/proxied/images.tar", options)
            assert "wrong" not in str(caught.value)
    assert server.requests[0][1].startswith(f"{NOBODY}/data/")


def test_bucket_is_read_through_the_proxy_of_an_option(moto, tar, pictures):
    moto.put("proxied/images.tar", tar)
    with proxy(moto.port) as server:
        options = {
            **moto.storage_options,
            "endpoint": NOBODY,
            "client_options": {"proxy_url": server.url()},
        }
        assert read("s3://data/proxied/images.tar", options) == pictures
    assert server.requests
