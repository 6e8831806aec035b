//! Where the body of an HTTP/1 message ends, found while its bytes go by (RFC 9112, section 6 and 7).

/// What is left of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing.
    None,
    /// So many bytes.
    Sized(u64),
    /// Chunks.
    Chunked(Chunk),
    /// All until the connection ends.
    ToEnd,
}

/// Where in a chunked body we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chunk {
    /// In the line with a chunk's size: what was read of it, and whether there was a digit.
    Size(u64, bool),
    /// Behind the size, in what may follow it in its line.
    Extension(u64),
    /// In a chunk of which so much is left.
    Data(u64),
    /// Behind a chunk's bytes, before the end of their line.
    DataEnd,
    /// In the lines behind the last chunk; whether this one is empty so far.
    Trailer(bool),
}

/// How far some bytes go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many belong to the body, and more will.
    More(usize),
    /// So many belong to it, and then it ends.
    End(usize),
    /// After so many the allowance is used up, and the body goes on.
    Cut(usize),
    /// After so many they are not as they should be.
    Strange(usize),
}

impl Body {
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunk::Size(0, false))
    }

    pub(super) fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Goes through bytes, of which `allowance` may be payload; it is lowered by what was.
    pub(super) fn step(&mut self, bytes: &[u8], allowance: &mut u64) -> Step {
        let step = match self {
            Self::None | Self::Sized(0) => Step::End(0),
            Self::Sized(left) => {
                let here = (bytes.len() as u64).min(*left);
                let goes = here.min(*allowance);
                *left -= goes;
                *allowance -= goes;
                match goes {
                    goes if goes < here => Step::Cut(goes as usize),
                    goes if *left == 0 => Step::End(goes as usize),
                    goes => Step::More(goes as usize),
                }
            }
            Self::ToEnd => {
                let goes = (bytes.len() as u64).min(*allowance) as usize;
                *allowance -= goes as u64;
                if goes < bytes.len() { Step::Cut(goes) } else { Step::More(goes) }
            }
            Self::Chunked(chunk) => chunk.step(bytes, allowance),
        };
        if matches!(step, Step::End(_)) {
            *self = Self::None;
        }
        step
    }
}

impl Chunk {
    fn step(&mut self, bytes: &[u8], allowance: &mut u64) -> Step {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            *self = match (&*self, byte) {
                (Self::Data(left), _) => {
                    let here = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let goes = here.min(usize::try_from(*allowance).unwrap_or(usize::MAX));
                    let left = left - goes as u64;
                    *allowance -= goes as u64;
                    at += goes;
                    if goes < here {
                        *self = Self::Data(left);
                        return Step::Cut(at);
                    }
                    *self = if left == 0 { Self::DataEnd } else { Self::Data(left) };
                    continue;
                }
                (Self::Size(0, true) | Self::Extension(0), b'\n') => Self::Trailer(true),
                (Self::Size(size, true) | Self::Extension(size), b'\n') => Self::Data(*size),
                (Self::Size(size, _), digit) if digit.is_ascii_hexdigit() => {
                    let value = char::from(*digit).to_digit(16).unwrap_or_default();
                    match size.checked_mul(16).and_then(|size| size.checked_add(u64::from(value))) {
                        Some(size) => Self::Size(size, true),
                        None => return Step::Strange(at),
                    }
                }
                (Self::Size(size, true), b';' | b' ' | b'\t' | b'\r') | (Self::Extension(size), _) => {
                    Self::Extension(*size)
                }
                (Self::DataEnd, b'\r') => Self::DataEnd,
                (Self::DataEnd, b'\n') => Self::Size(0, false),
                (Self::Trailer(true), b'\n') => return Step::End(at + 1),
                (Self::Trailer(_), b'\n') => Self::Trailer(true),
                (Self::Trailer(empty), b'\r') => Self::Trailer(*empty),
                (Self::Trailer(_), _) => Self::Trailer(false),
                (Self::Size(..) | Self::DataEnd, _) => return Step::Strange(at),
            };
            at += 1;
        }
        Step::More(at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNKED: &[u8] = b"3\r\nabc\r\n00A;x=\"y\"\r\n0123456789\r\n0\r\nTrailer: z\r\n\r\n";

    /// Goes through bytes in pieces; how many belonged to the body, and how it ended.
    fn walk(mut body: Body, bytes: &[u8], piece: usize, mut allowance: u64) -> (usize, Step) {
        let mut gone = 0;
        loop {
            let here = &bytes[gone..bytes.len().min(gone + piece)];
            match body.step(here, &mut allowance) {
                Step::More(n) if !here.is_empty() => gone += n,
                Step::End(n) => return (gone + n, Step::End(n)),
                other => return (gone + usize::from(matches!(other, Step::Cut(_))) * cut(&other), other),
            }
        }
    }

    fn cut(step: &Step) -> usize {
        if let Step::Cut(n) = step { *n } else { 0 }
    }

    #[test]
    fn a_body_ends_where_it_should_however_its_bytes_come() {
        let more = [CHUNKED, b"HTTP/1.1 200 OK"].concat();
        for piece in 1..more.len() {
            let (gone, step) = walk(Body::chunked(), &more, piece, u64::MAX);
            assert_eq!((gone, matches!(step, Step::End(_))), (CHUNKED.len(), true), "in pieces of {piece}");
            let (gone, _) = walk(Body::Sized(10), &more, piece, u64::MAX);
            assert_eq!(gone, 10);
        }
    }

    #[test]
    fn it_is_cut_only_where_more_of_it_follows() {
        for (allowance, gone) in [(0, 3), (2, 5), (3, 19), (12, 28)] {
            for piece in [1, 7, 100] {
                let (cut, step) = walk(Body::chunked(), CHUNKED, piece, allowance);
                assert!(matches!(step, Step::Cut(_)), "{allowance}: {step:?}");
                assert_eq!(cut, gone, "after {allowance} of payload");
            }
        }
        assert!(matches!(walk(Body::chunked(), CHUNKED, 9, 13).1, Step::End(_)), "it has no more than that");
        assert_eq!(walk(Body::Sized(5), b"abcde", 9, 5), (5, Step::End(5)));
        assert_eq!(walk(Body::Sized(5), b"abcde", 9, 4), (4, Step::Cut(4)));
    }

    #[test]
    fn what_is_no_chunk_is_strange() {
        for bytes in [&b"xyz"[..], b"\r\n", b"3\r\nabcd", b"fffffffffffffffff\r\n"] {
            assert!(matches!(walk(Body::chunked(), bytes, 99, u64::MAX).1, Step::Strange(_)), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail_or_take_more_than_there_are(bytes: Vec<u8>, allowance in 0_u64..100, kind in 0_u8..3) {
            let mut body = match kind { 0 => Body::chunked(), 1 => Body::Sized(50), _ => Body::ToEnd };
            let mut left = allowance;
            let (Step::More(n) | Step::End(n) | Step::Cut(n) | Step::Strange(n)) = body.step(&bytes, &mut left);
            prop_assert!(n <= bytes.len() && left <= allowance);
        }
    }
}
