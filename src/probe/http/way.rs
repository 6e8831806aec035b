//! How connections come about: to which address, through whom, secured how.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{HeaderValue, PROXY_AUTHORIZATION};
use tokio::net::UnixStream;

use super::expect::Expect;
use super::request::{Pick, Url, Version};
use super::wire::{Course, Wire, tunnel};
use crate::host::names::Names;
use crate::host::standpoint::Place;
use crate::probe::dial::{Address, Dialled, broken, connect, look_up_all};
use crate::probe::security::Tls;
use crate::probe::stream::Stream;
use crate::probe::{Miss, Trace, reach, timed};

/// The way to servers.
pub(super) struct Way {
    pub names: Names,
    pub pick: Pick,
    /// How many connections were made, for [`Pick::Each`].
    pub turn: AtomicUsize,
    pub through: Through,
    pub version: Version,
    /// TLS with the server that the file names.
    pub tls: Option<Tls>,
    /// TLS with servers that it redirects to: they are not shown our certificate.
    pub strangers: Option<Tls>,
}

/// What lies between us and a server.
pub(super) enum Through {
    Nothing,
    Proxy {
        address: Address,
        /// Who we are.
        authorization: Option<HeaderValue>,
    },
    Socket(PathBuf, Option<Place>),
}

impl Way {
    /// Says in a request what is asked for: a proxy that makes no way to the server must know all of it, and who we are.
    pub(super) fn address(&self, request: &mut Request<Full<Bytes>>, url: &Url) {
        *request.uri_mut() = url.target.clone();
        if let Through::Proxy { authorization, .. } = &self.through
            && !url.tls
        {
            *request.uri_mut() = url.whole.clone();
            if let Some(authorization) = authorization {
                request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
            }
        }
    }

    /// A fresh connection. `home` says whether the server may know who we are.
    pub(super) async fn open(
        &self,
        url: &Url,
        home: bool,
        expect: &Expect,
        trace: &mut Trace,
    ) -> Result<Wire, Miss> {
        let (stream, peer) = self.reach(url, trace).await?;
        let (stream, two, flaw) = match stream {
            Stream::Plain(plain) if url.tls => {
                let stream = self.tls(url, home)?.shake_over(plain, peer.as_str(), trace).await?;
                let agreed = stream.get_ref().1;
                let two = agreed.alpn_protocol() == Some(b"h2");
                if self.version == Version::Two && !two {
                    return Err(Miss::new(format!("{peer} does not offer HTTP/2")));
                }
                let flaw = expect.wrong_tls(agreed);
                (Stream::Tls(Box::new(stream)), two, flaw)
            }
            stream => {
                let flaw = expect.needs_tls().then(|| "the answer does not come by TLS".to_owned());
                (stream, self.version == Version::Two, flaw)
            }
        };
        Wire::new(stream, two, Course { url: url.clone(), home, peer, flaw }).await
    }

    fn tls(&self, url: &Url, home: bool) -> Result<Tls, Miss> {
        let lacking = || Miss::ours("TLS was not made ready");
        if home {
            return self.tls.clone().ok_or_else(lacking);
        }
        self.strangers.as_ref().ok_or_else(lacking)?.with(&url.address.host).map_err(Miss::new)
    }

    /// Bytes go to the server from here on, and come from it; what it is called in sentences.
    async fn reach(&self, url: &Url, trace: &mut Trace) -> Result<(Stream, String), Miss> {
        match &self.through {
            Through::Nothing => {
                let Dialled { stream, peer } = self.dial(&url.address, trace).await?;
                Ok((Stream::Plain(stream), peer.to_string()))
            }
            Through::Proxy { address, authorization } => {
                let dialled = self.dial(address, trace).await;
                let Dialled { stream, peer } =
                    dialled.map_err(|miss| Miss { why: format!("the proxy: {}", miss.why), ..miss })?;
                let proxy = format!("the proxy {peer}");
                if !url.tls {
                    return Ok((Stream::Plain(stream), proxy));
                }
                let asking = tunnel(Stream::Plain(stream), &url.address, authorization.as_ref(), &proxy);
                let stream = timed(&mut trace.greeting, asking).await?;
                Ok((stream, format!("{} through {proxy}", url.address)))
            }
            Through::Socket(path, place) => {
                let peer = path.display().to_string();
                trace.note("peer", || peer.clone());
                let connecting = async {
                    let (path, place) = (path.clone(), place.clone());
                    // A file system, or a container runtime, may hang; that must delay no other look.
                    let reached = tokio::task::spawn_blocking(move || reach(place.as_ref(), &path));
                    UnixStream::connect(reached.await??.path()).await
                };
                let stream = timed(&mut trace.connect, connecting).await;
                Ok((Stream::Local(stream.map_err(|why| broken(&peer, &why))?), peer))
            }
        }
    }

    /// One address and no other: whether another would answer is another look's question.
    async fn dial(&self, address: &Address, trace: &mut Trace) -> Result<Dialled, Miss> {
        let mut all = look_up_all(&address.host, self.pick.family(), &self.names, trace).await?;
        let turn = if self.pick == Pick::Each {
            // A name server may give them in another order each time.
            all.sort_unstable();
            self.turn.fetch_add(1, Ordering::Relaxed) % all.len()
        } else {
            0
        };
        connect(SocketAddr::new(all[turn], address.port), &self.names, trace).await
    }
}
