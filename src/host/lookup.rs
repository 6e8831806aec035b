//! One question to one name server, and what came of it: nothing is asked twice, nothing is kept.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UdpSocket;

use super::datagram::{LONGEST, hear};
use super::network::Network;
use super::socket::{Protocol, any};
use crate::base::clock::since_boot;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// An answer.
    Answer {
        /// What it says of the name.
        code: ResponseCode,
        /// The addresses it tells, of whichever name.
        addresses: Vec<IpAddr>,
        /// How long it took.
        after: Duration,
    },
    /// None in time.
    Silence,
    /// It could not be asked, or what came is no answer.
    Nothing(String),
}

/// A code as servers and their tools write it: `NXDOMAIN`.
#[must_use]
pub fn said(code: ResponseCode) -> String {
    match code {
        ResponseCode::Unknown(number) => format!("RCODE{number}"),
        known => format!("{known:?}").to_uppercase(),
    }
}

/// The question for records of a name, that a resolver is to go after (RFC 1035, section 4.1.1); each has an id of its own.
#[must_use]
pub fn question(name: &Name, kind: RecordType) -> Message {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), kind));
    question
}

/// Asks a server, in a network, for records of a name. `from` hears the port that is asked from, before it is.
pub async fn ask(
    network: &Network,
    server: SocketAddr,
    protocol: Protocol,
    (name, kind): (&Name, RecordType),
    within: Duration,
    from: impl FnOnce(u16),
) -> Got {
    let question = question(name, kind);
    let begun = since_boot();
    let asking = async {
        match protocol {
            Protocol::Udp => by_datagram(network, server, &question, from).await,
            Protocol::Tcp => by_stream(network, server, &question, from).await,
        }
    };
    match tokio::time::timeout(within, asking).await {
        Err(_) => Got::Silence,
        Ok(Err(why)) => Got::Nothing(why.to_string()),
        Ok(Ok(answer)) => Got::Answer {
            code: answer.metadata.response_code,
            addresses: answer.answers.iter().filter_map(|record| address(&record.data)).collect(),
            after: since_boot().saturating_sub(begun),
        },
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(four) => Some(four.0.into()),
        RData::AAAA(six) => Some(six.0.into()),
        _ => None,
    }
}

/// What answers the question, if these bytes do: what does not is somebody else's, or a lie (RFC 5452, section 9.1).
///
/// # Errors
/// Why it does not, in words that follow `what came`.
fn answer(bytes: &[u8], question: &Message) -> Result<Message, &'static str> {
    // A message begins with twelve bytes, the first two of which are its id (RFC 1035, section 4.1.1).
    if bytes.len() >= 12 && bytes[..2] != question.metadata.id.to_be_bytes() {
        return Err("has another id");
    }
    let message = Message::from_vec(bytes).map_err(|_| "is no message of DNS")?;
    if message.metadata.message_type != MessageType::Response {
        return Err("is a question");
    }
    if message.queries != question.queries {
        return Err("answers another question");
    }
    Ok(message)
}

/// Why a server that was asked over a connection gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// As the kernel says.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It closed the connection.
    #[error("the connection was closed")]
    Ended {
        /// In the middle of its answer.
        begun: bool,
    },
    /// What came does not answer the question, in words that follow `what came`.
    #[error("what came {0}")]
    Other(&'static str),
}

async fn by_datagram(
    network: &Network,
    server: SocketAddr,
    question: &Message,
    from: impl FnOnce(u16),
) -> Result<Message, NoAnswer> {
    let socket = network.within(|| std::net::UdpSocket::bind(any(server)))??;
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    socket.connect(server).await?;
    from(socket.local_addr()?.port());
    Ok(over_datagrams(&socket, question, &mut None).await?)
}

async fn by_stream(
    network: &Network,
    server: SocketAddr,
    question: &Message,
    from: impl FnOnce(u16),
) -> Result<Message, NoAnswer> {
    let socket = network.tcp(server)?;
    socket.bind(any(server))?;
    from(socket.local_addr()?.port());
    over_stream(&mut socket.connect(server).await?, question).await
}

/// Asks whom a socket is connected to. What does not answer the question is not heard, but told.
///
/// # Errors
/// As the kernel says, also what the host says about the port.
pub async fn over_datagrams(
    socket: &UdpSocket,
    question: &Message,
    not_heard: &mut Option<&'static str>,
) -> io::Result<Message> {
    socket.send(&question.to_vec().map_err(io::Error::other)?).await?;
    let mut buffer = vec![0; LONGEST];
    loop {
        let length = hear(socket, &mut buffer).await?;
        match answer(&buffer[..length], question) {
            Ok(answer) => return Ok(answer),
            Err(why) => *not_heard = Some(why),
        }
    }
}

/// Asks over an open connection.
///
/// # Errors
/// As the kernel says, and when what comes does not answer the question.
pub async fn over_stream(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    question: &Message,
) -> Result<Message, NoAnswer> {
    let bytes = question.to_vec().map_err(io::Error::other)?;
    // Its length stands before a message (RFC 1035, section 4.2.2).
    stream.write_all(&[&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat()).await?;
    let cut = |begun| {
        move |why: io::Error| match why.kind() {
            io::ErrorKind::UnexpectedEof => NoAnswer::Ended { begun },
            _ => why.into(),
        }
    };
    let first = stream.read_u8().await.map_err(cut(false))?;
    let second = stream.read_u8().await.map_err(cut(true))?;
    let mut buffer = vec![0; usize::from(u16::from_be_bytes([first, second]))];
    stream.read_exact(&mut buffer).await.map_err(cut(true))?;
    answer(&buffer, question).map_err(NoAnswer::Other)
}
