//! Servers that do wrong, or right in an odd way; how a user would look at each; and what an honest prober must say of it,
//! which follows from the protocol's specification and not from what anybody says.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on should say so and stop"
)]

mod dns;
mod store;
mod tcp;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::looking::{Authority, nobody, server};

/// One server, the two probes that look at it alike, and the truth.
pub struct Beast {
    pub name: &'static str,
    /// What it does, as the table says it.
    pub does: &'static str,
    den: Den,
    kind: &'static str,
    fields: String,
    within: &'static str,
    /// Why it is bad; `None` for one that is good. `PEER` is its address.
    pub why: Option<&'static str>,
    /// The exporter's prober, target and settings; `None` where it has none that could ask.
    theirs: Option<(&'static str, &'static str, String)>,
    /// Why the exporter says something else.
    pub differs: Option<&'static str>,
}

type Done<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// Starts a server; its port.
type Den = Arc<dyn Fn(&Authority) -> Done<u16>>;

/// All of them.
pub fn all() -> Vec<Beast> {
    [tls::all(), tcp::all(), dns::all(), store::all()].into_iter().flatten().collect()
}

impl Beast {
    fn new(name: &'static str, does: &'static str, kind: &'static str, den: Den) -> Self {
        let within = "10s";
        Self { name, does, den, kind, fields: String::new(), within, why: None, theirs: None, differs: None }
    }

    /// Our probe's fields.
    fn asked(mut self, fields: &str) -> Self {
        fields.clone_into(&mut self.fields);
        self
    }

    /// The exporter's prober, its target and its settings.
    fn theirs(mut self, prober: &'static str, target: &'static str, settings: &str) -> Self {
        self.theirs = Some((prober, target, settings.to_owned()));
        self
    }

    /// Both look for so long at most.
    fn within(mut self, limit: &'static str) -> Self {
        self.within = limit;
        self
    }

    fn bad(mut self, why: &'static str) -> Self {
        self.why = Some(why);
        self
    }

    fn differs(mut self, why: &'static str) -> Self {
        self.differs = Some(why);
        self
    }

    /// Starts its server; the port.
    pub async fn wake(&self, authority: &Authority) -> u16 {
        (self.den)(authority).await
    }

    /// Our probe, as it stands in a file.
    pub fn probe(&self, port: u16) -> String {
        let Self { name, kind, fields, within, .. } = self;
        let text = format!("[probe.{name}.{kind}]\n{fields}\nevery = '30s'\ntimeout = '{within}'\n\n");
        text.replace("PORT", &port.to_string())
    }

    /// The exporter's module, as it stands in its file, and what it is pointed at.
    pub fn module(&self, port: u16, authority: &Authority) -> Option<(String, String)> {
        let (prober, target, settings) = self.theirs.as_ref()?;
        let ca = authority.folder.path().join("ca.pem").display().to_string();
        let (name, within) = (self.name, self.within);
        let text = format!("  {name}: {{prober: {prober}, timeout: {within}, {prober}: {{{settings}}}}}\n");
        let port = port.to_string();
        Some((text.replace("CA", &ca).replace("PORT", &port), target.replace("PORT", &port)))
    }
}

fn den<F, R>(start: F) -> Den
where
    F: Fn(&Authority) -> R + 'static,
    R: Future<Output = u16> + Send + 'static,
{
    Arc::new(move |authority| Box::pin(start(authority)))
}

/// Each connection is served so.
fn serving<F, R>(serve: F) -> Den
where
    F: Fn(TcpStream) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    den(move |_| {
        let serve = serve.clone();
        async move { server(move |stream, _| serve(stream)).await.port() }
    })
}

/// Nobody listens.
fn deserted() -> Den {
    den(|_| async { nobody().await.port() })
}

/// Each datagram is answered by these.
fn answering(answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Clone + Send + 'static) -> Den {
    den(move |_| {
        let answers = answers.clone();
        async move {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let port = socket.local_addr().unwrap().port();
            tokio::spawn(async move {
                let mut buffer = vec![0; 65_535];
                while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                    for answer in answers(&buffer[..length]) {
                        let _ = socket.send_to(&answer, from).await;
                    }
                }
            });
            port
        }
    })
}

/// Each datagram is answered from another port.
async fn from_elsewhere(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> u16 {
    let asked = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = asked.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, from)) = asked.recv_from(&mut buffer).await {
            let _ = other.send_to(&answer(&buffer[..length]), from).await;
        }
    });
    port
}

/// A backlog that is full: the kernel answers nobody's SYN any more (listen(2)).
async fn full() -> u16 {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let first = TcpStream::connect(address).await.unwrap();
    tokio::spawn(async move {
        let _kept = (listener, first);
        std::future::pending::<()>().await;
    });
    address.port()
}

/// Closes our half, and the other when the peer has closed its own: nothing that was said is lost to a reset.
async fn bye(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = stream.shutdown().await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

/// Ends a connection by a reset, once the peer has taken what was said.
async fn reset(stream: TcpStream) {
    let said_and_taken = || {
        let mut waiting: libc::c_int = 0;
        // SAFETY: the descriptor is open, and the number outlives the call (tcp(7), SIOCOUTQ).
        unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&stream), libc::TIOCOUTQ, &raw mut waiting) };
        waiting == 0
    };
    while !said_and_taken() {
        tokio::task::yield_now().await;
    }
    stream.set_zero_linger().unwrap();
}

/// Says nothing, and waits until the peer has had enough.
async fn silent(mut stream: TcpStream) {
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

/// Says this again and again, as fast as the peer reads, until it has had enough, or 256 MiB.
async fn pouring(mut stream: TcpStream, words: Vec<u8>) {
    let many = words.repeat(64 * 1024 / words.len() + 1);
    for _ in 0..(256 << 20) / many.len() {
        if stream.write_all(&many).await.is_err() {
            return;
        }
    }
    silent(stream).await;
}
