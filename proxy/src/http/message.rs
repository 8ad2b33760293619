//! Messages as they pass through: heads whose fields are a list.

use http::{Extensions, Method, StatusCode, Uri, Version};
use route_model::request::headers::Headers;

/// What a request says before its body.
#[derive(Clone, Debug, Default)]
pub struct RequestParts {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub headers: Headers,
    /// What goes with an HTTP/2 request beside its fields.
    pub extensions: Extensions,
}

/// What a response says before its body.
#[derive(Clone, Debug, Default)]
pub struct ResponseParts {
    pub status: StatusCode,
    pub headers: Headers,
    /// What goes with an HTTP/2 response beside its fields.
    pub extensions: Extensions,
}

/// A response; methods are called as those of [`http::Response`].
#[derive(Clone, Debug)]
pub struct Response<B> {
    head: ResponseParts,
    body: B,
}

impl From<http::request::Parts> for RequestParts {
    fn from(parts: http::request::Parts) -> Self {
        let http::request::Parts { method, uri, version, headers, extensions, .. } = parts;
        Self { method, uri, version, headers: headers.into(), extensions }
    }
}

impl<B> Response<B> {
    /// With status 200 and no fields.
    pub fn new(body: B) -> Self {
        Self { head: ResponseParts::default(), body }
    }

    pub fn from_parts(head: ResponseParts, body: B) -> Self {
        Self { head, body }
    }

    pub fn into_parts(self) -> (ResponseParts, B) {
        (self.head, self.body)
    }

    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    pub fn status_mut(&mut self) -> &mut StatusCode {
        &mut self.head.status
    }

    pub fn headers(&self) -> &Headers {
        &self.head.headers
    }

    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.head.headers
    }

    pub fn body(&self) -> &B {
        &self.body
    }

    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    pub fn into_body(self) -> B {
        self.body
    }

    pub fn map<C>(self, into: impl FnOnce(B) -> C) -> Response<C> {
        Response { head: self.head, body: into(self.body) }
    }
}

impl<B> From<http::Response<B>> for Response<B> {
    fn from(response: http::Response<B>) -> Self {
        let (head, body) = response.into_parts();
        let head = ResponseParts { status: head.status, headers: head.headers.into(), extensions: head.extensions };
        Self { head, body }
    }
}

impl<B> From<Response<B>> for http::Response<B> {
    fn from(response: Response<B>) -> Self {
        let mut answer = Self::new(response.body);
        *answer.status_mut() = response.head.status;
        *answer.headers_mut() = response.head.headers.into();
        *answer.extensions_mut() = response.head.extensions;
        answer
    }
}
