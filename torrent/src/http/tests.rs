//! Each way a request can go wrong ends in its own error, in bounded time and memory.

use wtfs_testkit::net;

use super::test_origin::{Behaviour, NO_SUCH_HOST, Origin};
use super::*;

const LIMIT: usize = 64 * 1024;
/// Far beyond what anything here takes.
const TOTAL: Duration = Duration::from_secs(60);

fn config() -> HttpConfig {
    HttpConfig { proxies: ProxyPolicy::Direct, ..HttpConfig::default() }
}

fn client() -> HttpClient {
    HttpClient::new(config()).expect("the client can be built")
}

async fn fetch(url: &str) -> Result<Fetched, HttpError> {
    client().fetch(url, Family::Any, LIMIT, TOTAL).await
}

#[tokio::test]
async fn plain_answer_is_read_whole_and_names_us() {
    let origin = Origin::start([("/a", Behaviour::ok("hello"))]).await;
    let fetched = fetch(&origin.url("/a?key=1")).await.unwrap();
    assert_eq!(fetched.body, "hello");
    let head = origin.requests().remove(0);
    assert!(head.starts_with("GET /a?key=1 "), "{head}");
    assert!(head.to_lowercase().contains(&format!("user-agent: {USER_AGENT}")), "{head}");
}

#[tokio::test]
async fn redirects_are_followed_without_telling_where_from() {
    let origin = Origin::start([("/a", Behaviour::redirect("/b")), ("/b", Behaviour::ok("there"))]).await;
    assert_eq!(fetch(&origin.url("/a?passkey=secret")).await.unwrap().body, "there");
    assert!(!origin.requests()[1].contains("secret"));
}

#[tokio::test]
async fn redirect_loop_is_named() {
    let paths = [("/a", Behaviour::redirect("/b")), ("/b", Behaviour::redirect("/a"))];
    let origin = Origin::start(paths).await;
    let error = fetch(&origin.url("/a")).await.unwrap_err();
    assert!(matches!(error, HttpError::RedirectLoop { .. }), "{error}");
    assert!(origin.requests().len() <= 3);
}

#[tokio::test]
async fn endless_chain_of_redirects_ends_at_the_limit() {
    let chain = ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9", "/10", "/11", "/12"];
    let origin = Origin::start(chain.windows(2).map(|w| (w[0], Behaviour::redirect(w[1])))).await;
    let error = fetch(&origin.url("/0")).await.unwrap_err();
    assert!(matches!(error, HttpError::TooManyRedirects { limit: 10, .. }), "{error}");
    assert_eq!(origin.requests().len(), 11, "the first request and ten redirects");
}

#[tokio::test]
async fn redirect_into_a_private_network_is_not_followed() {
    let inner = Origin::start_at("127.0.0.2:0", [("/secret", Behaviour::ok("secret"))]).await;
    let port = inner.address.port();
    let targets = [
        format!("http://127.0.0.2:{port}/secret"),
        format!("http://0x7f000002:{port}/secret"),
        format!("http://localhost:{port}/"),
    ];
    for target in targets {
        let origin = Origin::start([("/a", Behaviour::redirect(&target))]).await;
        let error = fetch(&origin.url("/a")).await.unwrap_err();
        assert!(matches!(error, HttpError::OutOfReach { .. }), "{target}: {error:?}");
    }
    assert_eq!(inner.requests(), Vec::<String>::new());
    let config = HttpConfig { private_hosts: PrivateHosts::Any, ..config() };
    let client = HttpClient::new(config).expect("the client can be built");
    let origin = Origin::start([("/a", Behaviour::redirect(&inner.url("/secret")))]).await;
    assert_eq!(client.fetch(&origin.url("/a"), Family::Any, LIMIT, TOTAL).await.unwrap().body, "secret");
}

#[tokio::test]
async fn a_host_that_was_named_may_be_redirected_to_and_one_on_the_way_for_good_is_told_from_one_for_now() {
    let inner = Origin::start_at("127.0.0.2:0", [("/b", Behaviour::ok("there"))]).await;
    let for_good =
        Behaviour::Answer("308 Permanent Redirect", format!("Location: {}\r\n", inner.url("/b")), Vec::new());
    let origin = Origin::start([("/good", for_good), ("/now", Behaviour::redirect(&inner.url("/b")))]).await;
    for (path, is_for_good) in [("/good", true), ("/now", false)] {
        let (url, inner) = (origin.url(path), inner.url("/"));
        let named = NamedHosts::of([url.as_str(), inner.as_str()]);
        let url = url::Url::parse(&url).unwrap();
        let landed =
            client().get(url, (Family::Any, Connections::Kept), &HeaderMap::new(), &named).await.unwrap();
        assert_eq!((landed.is_for_good, landed.url.path()), (is_for_good, "/b"));
    }
}

#[tokio::test]
async fn body_over_the_limit_is_refused_with_and_without_a_length() {
    let origin = Origin::start([
        ("/long", Behaviour::ok(vec![0; LIMIT + 1])),
        ("/endless", Behaviour::Endless),
        ("/exact", Behaviour::ok(vec![0; LIMIT])),
    ])
    .await;
    for path in ["/long", "/endless"] {
        let error = fetch(&origin.url(path)).await.unwrap_err();
        assert!(matches!(error, HttpError::TooLarge { limit: LIMIT, .. }), "{path}: {error}");
    }
    assert_eq!(fetch(&origin.url("/exact")).await.unwrap().body.len(), LIMIT);
}

#[tokio::test]
async fn silence_ends_at_the_total_timeout() {
    let origin = Origin::start([("/", Behaviour::Silence)]).await;
    let limit = Duration::from_millis(200);
    let error = client().fetch(&origin.url("/"), Family::Any, LIMIT, limit).await.unwrap_err();
    assert!(matches!(error, HttpError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn hanging_up_and_garbage_are_a_broken_answer() {
    let paths =
        [("/close", Behaviour::Close), ("/raw", Behaviour::Raw(b"\x00\xff no http\r\n\r\n".to_vec()))];
    let origin = Origin::start(paths).await;
    for path in ["/close", "/raw"] {
        let error = fetch(&origin.url(path)).await.unwrap_err();
        assert!(matches!(error, HttpError::Broken { .. }), "{path}: {error:?}");
    }
}

#[tokio::test]
async fn short_body_is_a_broken_answer() {
    let raw = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this".to_vec();
    let origin = Origin::start([("/", Behaviour::Raw(raw))]).await;
    let error = fetch(&origin.url("/")).await.unwrap_err();
    assert!(matches!(error, HttpError::Broken { .. }), "{error:?}");
}

#[tokio::test]
async fn refused_connection_and_unknown_name_are_told_apart() {
    let closed = net::refused_addr();
    let error = fetch(&format!("http://{closed}/?passkey=secret")).await.unwrap_err();
    assert!(matches!(error, HttpError::Connect { .. }), "{error:?}");
    assert!(!error.to_string().contains("secret"));
    let error = fetch(&format!("http://{NO_SUCH_HOST}/")).await.unwrap_err();
    assert!(matches!(error, HttpError::Dns { .. }), "{error:?}");
}

#[tokio::test]
async fn status_is_kept_with_the_wait_asked_for() {
    let busy = Behaviour::Answer("503 Service Unavailable", "Retry-After: 120\r\n".to_owned(), Vec::new());
    let origin = Origin::start([("/", busy)]).await;
    let error = fetch(&origin.url("/")).await.unwrap().successful("x").unwrap_err();
    let expected = Some(Duration::from_secs(120));
    assert!(matches!(error, HttpError::Status { retry_after, .. } if retry_after == expected), "{error:?}");
}

#[tokio::test]
async fn urls_that_are_not_http_are_refused() {
    for url in ["ftp://a/", "file:///etc/passwd", "http://", "nonsense", "http://[::1"] {
        let error = fetch(url).await.unwrap_err();
        assert!(matches!(error, HttpError::InvalidUrl(_)), "{url}: {error:?}");
    }
}

#[tokio::test]
async fn family_limits_which_addresses_are_used() {
    let origin = Origin::start([("/", Behaviour::ok("v4"))]).await;
    let url = origin.url("/");
    let client = client();
    assert_eq!(client.fetch(&url, Family::V4, LIMIT, TOTAL).await.unwrap().body, "v4");
    assert!(client.fetch(&url, Family::V6, LIMIT, TOTAL).await.is_err());
}

#[tokio::test]
async fn tls_to_a_host_without_it_is_a_tls_error() {
    let origin = Origin::start([]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read_u8().await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.shutdown().await;
    });
    let error = fetch(&format!("https://{address}/")).await.unwrap_err();
    assert!(matches!(error, HttpError::Tls { .. }), "{error:?}");
    server.await.unwrap();
    drop(origin);
}

#[tokio::test]
async fn client_without_certificates_serves_plain_http() {
    let roots = Roots::Missing("none".to_owned());
    let client = HttpClient::with_roots(config(), roots).expect("it can be built");
    let origin = Origin::start([("/a", Behaviour::ok("plain"))]).await;
    assert_eq!(client.fetch(&origin.url("/a"), Family::Any, LIMIT, TOTAL).await.unwrap().body, "plain");
    assert_eq!(client.fetch(&origin.url("/a"), Family::V4, LIMIT, TOTAL).await.unwrap().body, "plain");
}

/// Run in a child process in which the certificate store is moved out of sight, since the environment of this one
/// belongs to all tests.
#[test]
fn machine_without_a_certificate_store_still_gets_a_client() {
    const MARK: &str = "WTFS_TEST_NO_CA_STORE";
    if std::env::var_os(MARK).is_some() {
        assert!(matches!(
            build(&config(), &Roots::Platform, (Family::Any, Connections::Kept, Reach::Named)),
            Err(HttpError::Setup(_))
        ));
        let client = client();
        assert!(matches!(client.shared.roots, Roots::Missing(_)));
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "http::tests::machine_without_a_certificate_store_still_gets_a_client"])
        .env(MARK, "1")
        .env("SSL_CERT_FILE", "/nonexistent/certs.pem")
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
