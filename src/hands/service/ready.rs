//! Whether a service answers yet.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::spawn::command;
use super::{Ready, Spec};
use crate::host::user::User;

/// From one look to the next.
const EVERY: Duration = Duration::from_millis(50);
/// One look may take so long; a cold cache is slow, and a look costs nothing.
const LOOK: Duration = Duration::from_secs(5);

/// Looks until it answers. The caller owns the deadline; `last` is what was seen last.
pub(super) async fn until_ready(spec: &Spec, user: Option<&User>, last: &mut String) {
    let Some(ready) = &spec.ready else { return };
    loop {
        match tokio::time::timeout(LOOK, look(spec, ready, user)).await {
            Ok(Ok(())) => return,
            Ok(Err(why)) => *last = why,
            Err(_) => "no answer within 5 s".clone_into(last),
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn look(spec: &Spec, ready: &Ready, user: Option<&User>) -> Result<(), String> {
    match ready {
        Ready::Tcp(address) => connect(address).await.map(drop),
        Ready::Http(url) => get(url).await,
        Ready::Exec(argv) => {
            let shown = argv.join(" ");
            let mut check = command(spec, argv, user, false).map_err(|why| why.to_string())?;
            let status = check.kill_on_drop(true).status().await;
            match status {
                Ok(status) if status.success() => Ok(()),
                Ok(status) => Err(format!("`{shown}`: {status}")),
                Err(why) => Err(format!("`{shown}` cannot be started: {why}")),
            }
        }
    }
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    // `localhost` is what it always is; no name service is asked for it.
    let port = address.strip_prefix("localhost:");
    let connected = match port.and_then(|port| port.parse::<u16>().ok()) {
        Some(port) => {
            let both = [std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
            TcpStream::connect(both.map(|ip: std::net::IpAddr| (ip, port).into()).as_slice()).await
        }
        None => TcpStream::connect(address).await,
    };
    connected.map_err(|why| format!("{address}: {why}"))
}

/// A GET in HTTP/1.0 (RFC 1945), which every server answers and then closes.
async fn get(url: &str) -> Result<(), String> {
    let (authority, path) = parts(url)?;
    let mut stream = connect(&with_port(authority)).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|why| format!("{url}: {why}"))?;
    let mut head = [0; 12]; // `HTTP/1.1 200`
    stream.read_exact(&mut head).await.map_err(|_| format!("{url}: the answer was cut short"))?;
    let status = String::from_utf8_lossy(&head);
    match status.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..)) {
        Some(code) if code.starts_with('2') => Ok(()),
        Some(code) => Err(format!("{url}: status {code}")),
        None => Err(format!("{url}: the answer is not HTTP")),
    }
}

fn with_port(authority: &str) -> String {
    // An IPv6 address without a port ends with its bracket.
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { authority.to_owned() } else { format!("{authority}:80") }
}

/// The authority and the path of an `http://` URL.
fn parts(url: &str) -> Result<(&str, &str), String> {
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| format!("{url}: only http:// can be asked here; for anything else use `exec`"))?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
    if authority.is_empty() || !plain(authority) || !plain(path) {
        return Err(format!("{url}: not a URL like http://127.0.0.1:8080/healthz"));
    }
    Ok((authority, path))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_url_is_taken_apart_or_refused() {
        assert_eq!(parts("http://a:1/x?y=z"), Ok(("a:1", "/x?y=z")));
        assert_eq!(parts("http://a"), Ok(("a", "/")));
        for wrong in ["https://a/", "a:80", "http:///x", "http://a/x y", "http://a/\r\nX: y"] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
        assert_eq!(with_port("a"), "a:80");
        assert_eq!(with_port("a:81"), "a:81");
        assert_eq!(with_port("[::1]"), "[::1]:80");
        assert_eq!(with_port("[::1]:81"), "[::1]:81");
    }

    #[tokio::test]
    async fn only_2xx_is_an_answer() {
        for (answer, good) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.0 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 503 Busy\r\n\r\n", false),
            ("HTTP/1.1 301 Away\r\n\r\n", false),
            ("SSH-2.0-OpenSSH_9.2p1\r\n", false),
            ("HTTP/1.1", false),
            ("", false),
        ] {
            let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://localhost:{}/healthz", server.local_addr().unwrap().port());
            let serve = async {
                let (mut client, _) = server.accept().await.unwrap();
                let mut request = vec![0; 1024];
                let n = client.read(&mut request).await.unwrap();
                assert!(request[..n].starts_with(b"GET /healthz HTTP/1.0\r\n"));
                client.write_all(answer.as_bytes()).await.unwrap();
            };
            let (seen, ()) = tokio::join!(get(&url), serve);
            assert_eq!(seen.is_ok(), good, "{answer:?}: {seen:?}");
        }
    }
}
