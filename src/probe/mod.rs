//! Floor 3: the ways of looking, one file each. Adding one is: its file, its line in `kinds!` below, its
//! cases.
//!
//! A kind only looks. When to look, how late a look is, and what came of it is the business of
//! `schedule`, so that every kind is measured alike.

mod tcp;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::file::{FieldDoc, Fields, Mistakes};

/// What a probe finds at hand.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The directory commands run in and relative files are read from: the experiment file's.
    pub directory: PathBuf,
    /// A look is over when this has passed since its intended start.
    pub timeout: Duration,
}

/// How long each part of a look took, as far as the kind has such a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// Looking up the name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lookup: Option<Duration>,
    /// Connecting.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub connect: Option<Duration>,
    /// The TLS handshake.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tls: Option<Duration>,
    /// From the request sent to the first byte of the answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_byte: Option<Duration>,
    /// From the first byte to the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub transfer: Option<Duration>,
}

/// A look that saw what was expected.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The parts it had.
    pub phases: Phases,
}

/// A look that did not see what was expected: data, never an error.
#[derive(Debug, Clone)]
pub struct Miss {
    /// Why, with the evidence, in one sentence: groups of equal sentences are counted, so it holds no time
    /// and no number that differs each time.
    pub why: String,
    /// The parts it had until then.
    pub phases: Phases,
}

impl Miss {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), phases: Phases::default() }
    }
}

/// One way of looking: the struct read from the file.
trait Probe {
    /// What is kept between looks: connections, TLS settings.
    type Prober: Prober;

    /// Whether fields that are right one by one make sense together: what is wrong, and the remedy.
    fn check(&self) -> Result<(), (String, String)> {
        Ok(())
    }

    /// Gets ready to look; reads files, touches nothing.
    ///
    /// # Errors
    /// A sentence saying what cannot be had (a file, an address).
    fn prober(&self, setting: &Setting) -> Result<Self::Prober, String>;

    /// What it looks at, in a few words.
    fn looks_at(&self) -> String;
}

/// Looks, again and again, also several times at once.
trait Prober: Send + Sync {
    /// One look. The caller owns the deadline and drops the future when it has passed.
    fn look(&self) -> impl Future<Output = Result<Seen, Miss>> + Send;
}

macro_rules! kinds {
    ($($variant:ident: $probe:ty, $prober:ty;)*) => {
        /// Any probe.
        #[derive(Debug, Clone)]
        pub enum AnyProbe {
            $(#[doc = concat!("See [`", stringify!($probe), "`].")] $variant($probe),)*
        }

        /// Any prober.
        pub enum AnyProber {
            $(#[doc = concat!("See [`", stringify!($prober), "`].")] $variant($prober),)*
        }

        impl AnyProbe {
            /// The words that name the kinds.
            pub const KINDS: &'static [&'static str] = &[$(<$probe>::KIND),*];

            /// Takes a kind's fields out of its table; `None` on mistakes or an unknown kind.
            pub fn take(kind: &str, fields: &mut Fields<'_>, mistakes: &mut Mistakes) -> Option<Self> {
                $(if kind == <$probe>::KIND {
                    let place = fields.place();
                    let probe = <$probe>::take(fields, mistakes)?;
                    if let Err((what, remedy)) = probe.check() {
                        mistakes.error(place, what, remedy);
                    }
                    return Some(Self::$variant(probe));
                })*
                None
            }

            /// What the docs say about a kind: what it is, and its fields.
            #[must_use]
            pub fn explain(kind: &str) -> Option<(&'static str, Vec<FieldDoc>)> {
                $(if kind == <$probe>::KIND {
                    return Some((<$probe>::ABOUT, <$probe>::fields()));
                })*
                None
            }

            /// The word that names this kind.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => <$probe>::KIND,)* }
            }

            /// What it looks at, in a few words.
            #[must_use]
            pub fn looks_at(&self) -> String {
                match self { $(Self::$variant(probe) => probe.looks_at(),)* }
            }

            /// Gets ready to look; reads files, touches nothing.
            ///
            /// # Errors
            /// A sentence saying what cannot be had.
            pub fn prober(&self, setting: &Setting) -> Result<AnyProber, String> {
                match self { $(Self::$variant(probe) => probe.prober(setting).map(AnyProber::$variant),)* }
            }
        }

        impl AnyProber {
            /// One look. The caller owns the deadline and drops the future when it has passed.
            ///
            /// # Errors
            /// What was seen instead of what was expected: data, not an error.
            pub async fn look(&self) -> Result<Seen, Miss> {
                match self { $(Self::$variant(prober) => prober.look().await,)* }
            }
        }
    };
}

kinds! {
    Tcp: tcp::Tcp, tcp::TcpProber;
}
