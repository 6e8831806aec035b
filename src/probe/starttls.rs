//! Agreeing with a server, in its own protocol, that TLS begins now.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::dial::{Dialled, broken};
use super::{Miss, beginning};

/// A longer line is not taken; RFC 5321 allows 512 bytes, RFC 9051 asks for 8192.
const LINE: usize = 8192;
/// More lines are not taken.
const LINES: usize = 100;

/// The protocol that is spoken before TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// SMTP (RFC 3207).
    Smtp,
    /// IMAP (RFC 9051, section 6.2.1).
    Imap,
    /// PostgreSQL ("SSL Session Encryption" in its documentation of the protocol).
    Postgres,
}

crate::words!(Before, "protocol", "smtp" => Before::Smtp, "imap" => Before::Imap, "postgres" => Before::Postgres);

impl Before {
    /// Speaks until the next byte is TLS. Nothing is read beyond that: what came in the clear must not be taken
    /// for what came over TLS.
    pub(super) async fn agree(self, dialled: &mut Dialled) -> Result<(), Miss> {
        let peer = dialled.peer;
        let refused = match self {
            Self::Smtp => smtp(&mut dialled.stream).await,
            Self::Imap => imap(&mut dialled.stream).await,
            Self::Postgres => postgres(&mut dialled.stream).await,
        };
        match refused.map_err(|why| broken(peer, &why))? {
            None => Ok(()),
            Some(why) => Err(Miss::new(format!("{peer} {why}"))),
        }
    }
}

/// What went wrong, if anything.
type Refused = io::Result<Option<String>>;

async fn smtp(stream: &mut TcpStream) -> Refused {
    let greeting = reply(stream).await?;
    if !greeting.starts_with("220") {
        return Ok(Some(format!("does not greet as SMTP does: `{}`", beginning(greeting.as_bytes()))));
    }
    stream.write_all(b"EHLO brownout.invalid\r\n").await?;
    let abilities = reply(stream).await?;
    if !abilities.lines().any(|line| line.get(4..).is_some_and(|word| word.eq_ignore_ascii_case("STARTTLS")))
    {
        return Ok(Some("does not offer STARTTLS".to_owned()));
    }
    stream.write_all(b"STARTTLS\r\n").await?;
    let ready = reply(stream).await?;
    Ok((!ready.starts_with("220")).then(|| format!("refuses STARTTLS: `{}`", beginning(ready.as_bytes()))))
}

/// The lines of one SMTP reply: the last has a space after its code (RFC 5321, section 4.2.1).
async fn reply(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = String::new();
    for _ in 0..LINES {
        let line = line(stream).await?;
        let goes_on = line.as_bytes().get(3) == Some(&b'-');
        text.push_str(&line);
        text.push('\n');
        if !goes_on {
            break;
        }
    }
    Ok(text)
}

async fn imap(stream: &mut TcpStream) -> Refused {
    let greeting = line(stream).await?;
    if !greeting.starts_with("* OK") {
        return Ok(Some(format!("does not greet as IMAP does: `{}`", beginning(greeting.as_bytes()))));
    }
    stream.write_all(b"a STARTTLS\r\n").await?;
    for _ in 0..LINES {
        let said = line(stream).await?;
        if let Some(said) = said.strip_prefix("a ") {
            let agreed = said.starts_with("OK");
            return Ok((!agreed).then(|| format!("refuses STARTTLS: `{}`", beginning(said.as_bytes()))));
        }
    }
    Ok(Some("does not answer STARTTLS".to_owned()))
}

async fn postgres(stream: &mut TcpStream) -> Refused {
    // SSLRequest: the length of the message and the code 80877103.
    stream.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]).await?;
    Ok(match stream.read_u8().await? {
        b'S' => None,
        b'N' => Some("does not speak TLS".to_owned()),
        other => Some(format!("is no PostgreSQL server: it answers `{}`", beginning(&[other]))),
    })
}

/// A line without its end.
async fn line(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    while bytes.len() < LINE {
        match stream.read_u8().await? {
            b'\n' => break,
            byte => bytes.push(byte),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}
