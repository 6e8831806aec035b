//! `promql`: is what a server of metrics makes of a query as it should be?

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::figure::{Expect, Several};
use super::http::{Access, Page, Url};
use super::{Miss, Probe, Prober, Setting, Trace, beginning};

crate::kind! {
    /// Asks a server that speaks Prometheus's query language, and judges the figure it answers: what real users met.
    ///
    /// Prometheus, Thanos, Mimir, VictoriaMetrics. The query is evaluated now; a series of something that died may be told for
    /// some minutes more, so `rate(...)` over a short range sees harm soonest. No data, NaN and a warning (of an
    /// answer that lacks a part) are bad and told. The answer may hold 16 MiB.
    pub struct Promql("promql") {
        /// Where the server is: `http://host:9090` or `https://...`, with what stands before `/api/v1/query`.
        url: Url = required,
        /// What is asked: a scalar, or a vector of one element unless `several` says what is made of more.
        query: String = required,
        /// What is made of several elements: their `sum`, the `least`, the `greatest`, or `none`, and the look is bad.
        several: Several = "none",
        /// What the figure must be: `above` and `below`.
        expect: Expect = required,
        /// How the server is reached: `headers`, `bearer`, `bearer_file`, `basic`, `ca_file` and `insecure`, as for the kind
        /// `http`.
        access: Access = "{}",
    }
}

/// Asks, again and again.
pub struct PromqlProber {
    several: Several,
    expect: Expect,
    page: Page,
}

impl Promql {
    /// Where the query is answered, when that must be within so many milliseconds.
    fn asks(&self, milliseconds: u128) -> Result<Url, (String, String)> {
        let within = format!("{milliseconds}ms");
        self.url.below("/api/v1/query", &[("query", &self.query), ("timeout", &within)])
    }
}

impl Probe for Promql {
    type Prober = PromqlProber;
    const EXAMPLE: &'static str = r#"[probe.errors.promql]
url    = "http://127.0.0.1:9090"
query  = '''
  sum(rate(http_requests_total{code=~"5.."}[1m]))
  / sum(rate(http_requests_total[1m]))
'''
expect = { below = "1%" }
every  = "5s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        if self.query.trim().is_empty() {
            return Err(("the query is empty".to_owned(), "such as query = \"up\"".to_owned()));
        }
        self.asks(0)?;
        self.access.check(&self.url)
    }

    fn prober(&self, setting: &Setting) -> Result<PromqlProber, String> {
        let url = self.asks(setting.timeout.as_millis().max(1)).map_err(|(what, _)| what)?;
        // With the others the interface answers what is wrong with the query ("HTTP API" of Prometheus's documentation).
        let statuses = ["2xx", "400", "422", "503"];
        let page = self.access.page(url, &statuses, "application/json", setting)?;
        Ok(PromqlProber { several: self.several, expect: self.expect.clone(), page })
    }

    fn looks_at(&self) -> String {
        format!("{} {}", self.url.said, self.query.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl Prober for PromqlProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let body = self.page.body(trace).await?;
        let found = figures(&body).map_err(Miss::new)?;
        let figure = self.several.one("figure for this query", &found).map_err(Miss::new)?;
        self.expect.judge("the result", figure, trace)
    }
}

/// An answer ("HTTP API" of Prometheus's documentation, "Format overview").
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    status: String,
    data: Option<Data>,
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_type: String,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Scalar((IgnoredAny, String)),
    Vector(Vec<Element>),
    Matrix(IgnoredAny),
    String(IgnoredAny),
}

/// An element of a vector: a figure, or else a histogram.
#[derive(Deserialize)]
struct Element {
    value: Option<(IgnoredAny, String)>,
}

/// The figures of an answer, or why there are none.
fn figures(body: &[u8]) -> Result<Vec<f64>, String> {
    let odd = || format!("the answer is not that of Prometheus's interface; it begins `{}`", beginning(body));
    let answer: Answer = serde_json::from_slice(body).map_err(|_| odd())?;
    if answer.status == "error" {
        let why = answer.error.trim_start_matches("invalid parameter \"query\": ");
        return Err(format!("the query is refused: `{}` ({})", beginning(why.as_bytes()), answer.error_type));
    }
    if let Some(warning) = answer.warnings.first() {
        return Err(format!("the server warns: `{}`", beginning(warning.as_bytes())));
    }
    let told = match answer.data.ok_or_else(odd)? {
        Data::Scalar((_, figure)) => vec![figure],
        Data::Vector(elements) => {
            let told = elements.into_iter().map(|element| Some(element.value?.1)).collect::<Option<_>>();
            told.ok_or("the query's answer is a histogram: take a quantile of it")?
        }
        Data::Matrix(_) => return Err("the query's answer is a range: take a rate or a sum of it".to_owned()),
        Data::String(_) => return Err("the query's answer is a string".to_owned()),
    };
    let figures: Vec<f64> =
        told.iter().map(|told| told.parse()).collect::<Result<_, _>>().map_err(|_| odd())?;
    if figures.iter().any(|figure| figure.is_nan()) {
        return Err(
            "the query's answer is no number (NaN): it divides by zero, or of what it asks there is none"
                .to_owned(),
        );
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_taken_out_of_an_answer_or_it_is_told_why_there_are_none() {
        let told = |body: &str| figures(body.as_bytes());
        let good = |kind: &str, result: &str| {
            told(&format!(
                "{{\"status\":\"success\",\"data\":{{\"resultType\":\"{kind}\",\"result\":{result}}}}}"
            ))
        };
        assert_eq!(good("scalar", "[1700000000.5,\"-1.5e3\"]"), Ok(vec![-1500.0]));
        assert_eq!(good("vector", "[]"), Ok(vec![]));
        let two = "[{\"metric\":{\"a\":\"b\"},\"value\":[1,\"+Inf\"]},{\"metric\":{},\"value\":[1,\"2\"]}]";
        assert_eq!(good("vector", two), Ok(vec![f64::INFINITY, 2.0]));
        for (kind, result, why) in [
            ("vector", "[{\"value\":[1,\"1\"]},{\"value\":[1,\"NaN\"]}]", "no number (NaN)"),
            ("vector", "[{\"histogram\":[1,{}]}]", "a histogram"),
            ("matrix", "[{\"values\":[[1,\"1\"]]}]", "a range"),
            ("string", "[1,\"a\"]", "a string"),
            ("scalar", "[1,\"many\"]", "not that of Prometheus's interface"),
            ("scalar", "[1,2]", "not that of Prometheus's interface"),
            ("else", "[]", "not that of Prometheus's interface"),
        ] {
            let told = good(kind, result).unwrap_err();
            assert!(told.contains(why), "{result}: {told}");
        }
        let refused = "{\"status\":\"error\",\"errorType\":\"bad_data\",\"error\":\"invalid parameter \\\"query\\\": 1:1: no\"}";
        assert_eq!(told(refused), Err("the query is refused: `1:1: no` (bad_data)".to_owned()));
        let warned = "{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[]},\"warnings\":[\"a store is gone\"]}";
        assert_eq!(told(warned), Err("the server warns: `a store is gone`".to_owned()));
        for odd in ["", "[]", "{}", "{\"status\":\"success\"}", "<html>"] {
            assert!(told(odd).unwrap_err().contains("not that of Prometheus's interface"), "{odd}");
        }
    }
}
