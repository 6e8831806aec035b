//! A figure that is looked at: one out of those that were found, and what it must be.

use super::expect::{Bounds, Number};
use super::{Miss, Trace};

/// What is made of several figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Several {
    /// Nothing: one is expected.
    None,
    /// Their sum.
    Sum,
    /// The least of them.
    Least,
    /// The greatest of them.
    Greatest,
}

crate::words!(Several, "word", "none" => Several::None, "sum" => Several::Sum, "least" => Several::Least,
    "greatest" => Several::Greatest);

impl Several {
    /// The figure, or why there is none; `called` is what was found.
    pub(super) fn one(self, called: &str, figures: &[f64]) -> Result<f64, String> {
        let (first, rest) = figures.split_first().ok_or_else(|| format!("there is no {called}"))?;
        if rest.is_empty() {
            return Ok(*first);
        }
        let fold = |two: fn(f64, f64) -> f64| rest.iter().fold(*first, |one, other| two(one, *other));
        match self {
            Self::None => Err(format!("there is more than one {called}: narrow it, or say `several`")),
            Self::Sum => Ok(fold(|one, other| one + other)),
            Self::Least => Ok(fold(f64::min)),
            Self::Greatest => Ok(fold(f64::max)),
        }
    }
}

crate::kind! {
    /// What a figure must be.
    pub struct Expect("expect") {
        /// It is above this.
        above: Number = optional,
        /// It is below this.
        below: Number = optional,
    }
}

crate::table!(Expect, "`expect`");

impl Expect {
    /// Judges a figure, which is noted.
    pub(super) fn judge(&self, called: &str, figure: f64, trace: &mut Trace) -> Result<(), Miss> {
        let bounds = Bounds { above: self.above.as_ref(), below: self.below.as_ref() };
        bounds.wrong(called, figure, trace).map_or(Ok(()), |why| Err(Miss::new(why)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_figures_one_is_made_if_asked() {
        for (several, one) in [(Several::Sum, 5.0), (Several::Least, -1.0), (Several::Greatest, 4.0)] {
            assert_eq!(several.one("x", &[2.0, -1.0, 4.0]), Ok(one));
        }
        assert_eq!(Several::None.one("x", &[2.0]), Ok(2.0));
        assert_eq!(Several::Sum.one("x", &[]), Err("there is no x".to_owned()));
        assert!(Several::None.one("x", &[2.0, 2.0]).unwrap_err().starts_with("there is more than one x"));
    }
}
