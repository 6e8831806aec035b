//! Which names are meant.

use std::fmt;

use hickory_proto::rr::Name;

use crate::file::{Mistakes, Node, Read, read_text, some, some_schema};
use crate::host::socket::Namespace;
use crate::undo::Claim;

/// A name, or all names below one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    name: Name,
    below: bool,
}

/// Some names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(Vec<Pattern>);

impl Pattern {
    fn parse(text: &str) -> Result<Self, (String, String)> {
        let wrong = |why: &str| {
            let remedy = "such as \"db.example.com\", or \"*.example.com\" for all names below it";
            (format!("`{text}` is no name: {why}"), remedy.to_owned())
        };
        let (plain, below) = text.strip_prefix("*.").map_or((text, false), |rest| (rest, true));
        if plain.contains('*') {
            return Err(wrong("a `*` can only stand for all that is before the first point"));
        }
        if plain.parse::<std::net::IpAddr>().is_ok() {
            return Err(wrong("it is an address, which nobody looks up"));
        }
        let mut name = Name::from_str_relaxed(plain)
            .map_err(|_| wrong("a part has up to 63 letters, digits, `-` or `_`, all together 253"))?
            .to_lowercase();
        name.set_fqdn(true);
        if name.is_root() {
            return Err(wrong("it is empty; leave `names` out to mean all"));
        }
        Ok(Self { name, below })
    }

    fn fits(&self, asked: &Name) -> bool {
        let longer = asked.iter().count() > self.name.iter().count();
        self.name.zone_of(asked) && longer == self.below
    }

    /// Whether there is a name that both mean.
    fn meets(&self, other: &Self) -> bool {
        match (self.below, other.below) {
            (true, true) => self.name.zone_of(&other.name) || other.name.zone_of(&self.name),
            (true, false) => self.fits(&other.name),
            (false, _) => other.fits(&self.name),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.to_ascii();
        write!(f, "{}{}", if self.below { "*." } else { "" }, name.trim_end_matches('.'))
    }
}

impl Read for Pattern {
    const NAME: &'static str = "name";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        read_text(node, mistakes, Self::parse)
    }
    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "string", "minLength": 1})
    }
}

impl Read for Names {
    const NAME: &'static str = "name or list of them";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        some(node, mistakes).map(Self)
    }
    fn schema() -> serde_json::Value {
        some_schema::<Pattern>()
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said().join(" and "))
    }
}

impl Names {
    /// Each, as it is written.
    pub(super) fn said(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    pub(super) fn fit(&self, asked: &Name) -> bool {
        self.0.iter().any(|pattern| pattern.fits(asked))
    }

    /// One of them, which may or may not exist.
    pub(super) fn one(&self) -> Option<Name> {
        let pattern = self.0.iter().find(|pattern| !pattern.below).or_else(|| self.0.first())?;
        if pattern.below {
            pattern.name.prepend_label("brownout-looks").ok()
        } else {
            Some(pattern.name.clone())
        }
    }

    /// The first of them that means a name of the others too.
    pub(super) fn met(&self, others: &Self) -> Option<String> {
        let met = self.0.iter().find(|ours| others.0.iter().any(|theirs| ours.meets(theirs)));
        met.map(ToString::to_string)
    }
}

/// Lookups of these names, as written, or of all when there are none: nobody else answers them, nor those of a name that
/// is meant by both.
pub(super) fn claims(names: &[String], namespace: Namespace, host: &str) -> Vec<Claim> {
    let thing = |what: &str| format!("lookups of {what} in network namespace {}", namespace.0);
    let all = thing("all names");
    if names.is_empty() {
        return vec![Claim::exclusive(host, all)];
    }
    let mut claims = vec![Claim::shared(host, all)];
    for name in names {
        claims.push(Claim::exclusive(host, thing(name)));
        let mut above = name.strip_prefix("*.").unwrap_or(name);
        while let Some((_, rest)) = above.split_once('.') {
            claims.push(Claim::shared(host, thing(&format!("*.{rest}"))));
            above = rest;
        }
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    #[test]
    fn a_name_is_itself_in_any_case_and_a_star_is_all_below_but_not_itself() {
        let (exact, below) = (pattern("DB.Example.com."), pattern("*.example.com"));
        assert_eq!((exact.to_string(), below.to_string()), ("db.example.com".into(), "*.example.com".into()));
        assert!(exact.fits(&name("db.eXample.COM.")));
        for other in ["a.db.example.com.", "example.com.", "db.example.org.", "xdb.example.com.", "."] {
            assert!(!exact.fits(&name(other)), "{other}");
        }
        assert!(below.fits(&name("db.example.com.")) && below.fits(&name("a.b.EXAMPLE.com.")));
        assert!(!below.fits(&name("example.com.")) && !below.fits(&name("badexample.com.")));
        assert!(pattern("_sip._tcp.example.com").fits(&name("_sip._tcp.example.com.")));
        assert!(pattern("b\u{fc}cher.example").fits(&name("xn--bcher-kva.example.")));
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "empty"),
            (".", "empty"),
            ("*", "`*`"),
            ("a.*.com", "`*`"),
            ("a b.com", "letters"),
            ("a..com", "letters"),
            ("10.0.0.7", "address"),
            ("::1", "address"),
            (&"x".repeat(64), "letters"),
            (&format!("{}com", "abcdefgh.".repeat(30)), "letters"),
        ] {
            let (what, remedy) = Pattern::parse(text).unwrap_err();
            assert!(what.contains(why) && !remedy.is_empty(), "{what}");
        }
    }

    #[test]
    fn two_clash_exactly_when_a_name_is_meant_by_both() {
        let (here, there) = (Namespace(1), Namespace(2));
        let clash = |a: &[&str], b: &[&str]| {
            let claims = |names: &[&str], namespace| {
                claims(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), namespace, "")
            };
            let any = |one: Vec<Claim>, two: Vec<Claim>| one.iter().any(|a| two.iter().any(|b| a.clashes(b)));
            assert!(!any(claims(a, here), claims(b, there)), "another namespace");
            let by_claims = any(claims(a, here), claims(b, here));
            if let ([a], [b]) = (a, b) {
                assert_eq!(by_claims, pattern(a).meets(&pattern(b)), "{a} {b}");
                assert_eq!(by_claims, pattern(b).meets(&pattern(a)), "{a} {b}");
            }
            by_claims
        };
        assert!(clash(&["a.b.com"], &["a.b.com"]) && clash(&[], &[]) && clash(&["a.b.com"], &[]));
        assert!(!clash(&["a.b.com"], &["b.b.com"]) && !clash(&["b.com"], &["a.b.com"]));
        assert!(clash(&["*.b.com"], &["a.b.com"]) && clash(&["*.com"], &["a.b.com"]));
        assert!(!clash(&["*.b.com"], &["b.com"]) && !clash(&["*.b.com"], &["*.c.com"]));
        assert!(clash(&["*.b.com"], &["*.com"]) && clash(&["*.b.com"], &["*.b.com"]));
        assert!(
            clash(&["x.org", "*.b.com"], &["y.org", "a.b.com"]) && !clash(&["x.org"], &["y.org", "z.org"])
        );
    }
}
