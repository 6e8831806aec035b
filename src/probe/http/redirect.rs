//! What is asked in one look: first as the file says, then where redirects lead.

use hyper::body::{Bytes, Incoming};
use hyper::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LOCATION, CONTENT_TYPE, COOKIE, HOST,
    HeaderMap, HeaderValue, LOCATION,
};
use hyper::{Method, Response, StatusCode};

use super::request::Url;
use crate::probe::Miss;

/// One thing that is asked.
pub(super) struct Asked {
    pub url: Url,
    pub method: Method,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whether the server may know who we are.
    pub home: bool,
}

/// Where an answer leads, if it is a redirect (RFC 9110, section 15.4) that says where to.
pub(super) fn redirect(answer: &Response<Incoming>) -> Option<HeaderValue> {
    let leads = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    answer.headers().get(LOCATION).filter(|_| leads).cloned()
}

impl Asked {
    /// What is asked next when the answer was a redirect.
    pub(super) fn after(&self, status: StatusCode, location: &[u8]) -> Result<Self, Miss> {
        let url = self.url.join(location);
        let url = url.map_err(|why| Miss::new(format!("it redirects to where nobody can follow: {why}")))?;
        let (mut headers, mut body, mut method) =
            (self.headers.clone(), self.body.clone(), self.method.clone());
        let becomes_get = match status {
            StatusCode::SEE_OTHER => method != Method::HEAD,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => method == Method::POST,
            _ => false,
        };
        if becomes_get {
            (method, body) = (Method::GET, Bytes::new());
            for about_the_body in [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LOCATION] {
                headers.remove(about_the_body);
            }
        }
        // Who was sent away once is not told again who we are, wherever it is sent.
        let home = self.home && self.url.trusts(&url);
        if !home {
            headers.remove(AUTHORIZATION);
            headers.remove(COOKIE);
        }
        if !self.url.shares_origin(&url) {
            headers.insert(HOST, url.host.clone());
        }
        Ok(Self { url, method, headers, body, home })
    }
}
