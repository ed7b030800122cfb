//! One question to Prometheus over HTTP, with a deadline, a bound on the answer and a sentence for everything that can go wrong.

use std::{path::PathBuf, sync::Once, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use prometheus_http_query::Client as Api;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use super::{Config, answer::Data};

/// Largest answer that is read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 8 << 20;

/// Asks one server.
#[derive(Clone)]
pub(super) struct Client {
    api: Api,
    deadline: Duration,
    lookback: Duration,
    token_file: Option<PathBuf>,
}

/// Why the client cannot be made.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// Why a question has no answer.
#[derive(Debug, Error)]
pub(super) enum Error {
    #[error("Prometheus cannot be reached: {0}")]
    Unreachable(String),
    #[error("Prometheus did not answer within {} ms; make the query cheaper, or raise --prometheus-timeout", .0.as_millis())]
    Deadline(Duration),
    #[error("Prometheus answered {0} instead of 200{1}")]
    Status(StatusCode, &'static str),
    #[error("Prometheus says: {0}")]
    Refused(String),
    #[error("Prometheus' answer is larger than {} MiB: choose fewer series, or aggregate them", MAX_ANSWER_BYTES >> 20)]
    TooLarge,
    #[error("the query gives a string, not a number")]
    Text,
    #[error("what answers is no Prometheus: {0}")]
    Foreign(String),
    #[error("the token file {0} cannot be used: {1}")]
    Token(String, String),
}

impl Error {
    /// Whether any question would have failed so.
    pub(super) fn concerns_all(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Foreign(_) | Self::Token(..) => true,
            // A proxy that gave up waiting, or a server that stumbled, says so of this question only.
            Self::Status(status, _) => {
                !matches!(*status, StatusCode::GATEWAY_TIMEOUT | StatusCode::INTERNAL_SERVER_ERROR)
            }
            Self::Deadline(_) | Self::Refused(_) | Self::TooLarge | Self::Text => false,
        }
    }
}

/// An answer. Its values are read in a second step, when their type is known: one step would keep a tree of the whole answer, as
/// the field that names the type may come last.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    data: Option<Values<'a>>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Values<'a> {
    result_type: &'a str,
    #[serde(borrow)]
    result: &'a RawValue,
}

impl<'a> Values<'a> {
    fn read(&self) -> Result<Data<'a>, Error> {
        let json = self.result.get();
        let read = match self.result_type {
            "vector" => serde_json::from_str(json).map(Data::Vector),
            "scalar" => serde_json::from_str(json).map(Data::Scalar),
            "matrix" => Ok(Data::Matrix),
            "string" => return Err(Error::Text),
            other => return Err(Error::Foreign(format!("its answer is of the unknown type {other:?}"))),
        };
        read.map_err(|error| Error::Foreign(error.to_string()))
    }
}

/// What the server answered, in JSON.
pub(super) struct Body(Vec<u8>);

impl Body {
    /// The answer in it.
    ///
    /// # Errors
    ///
    /// When the server refuses the query, or is no Prometheus.
    pub(super) fn read(&self) -> Result<Data<'_>, Error> {
        self.values()?.read()
    }

    /// The series in it, as the caller wants to read them.
    ///
    /// # Errors
    ///
    /// As of [`Self::read`], and when it is no vector.
    pub(super) fn vector<'a, T: Deserialize<'a>>(&'a self) -> Result<Vec<T>, Error> {
        let Values { result_type, result } = self.values()?;
        match result_type {
            "vector" => serde_json::from_str(result.get()).map_err(|error| Error::Foreign(error.to_string())),
            other => Err(Error::Refused(format!("the query gives a {other}, not series with labels"))),
        }
    }

    fn values(&self) -> Result<Values<'_>, Error> {
        match serde_json::from_slice(&self.0) {
            Ok(Envelope { data: Some(values), error: None }) => Ok(values),
            // Its own sentence has the line and column; what it says before that is the parameter's name.
            Ok(Envelope { error: Some(error), .. }) => {
                Err(Error::Refused(error.trim_start_matches("invalid parameter \"query\": ").to_owned()))
            }
            Ok(Envelope { data: None, error: None }) => Err(Error::Foreign("its answer has no data".to_owned())),
            Err(error) => Err(Error::Foreign(error.to_string())),
        }
    }
}

impl Client {
    /// A client for the server of `config`; connects at the first question.
    ///
    /// # Errors
    ///
    /// When the URL or a header is none.
    pub(super) fn new(config: &Config) -> Result<Self, ConfigError> {
        static PROVIDER: Once = Once::new();
        // Fails where one is installed already, which serves as well.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            headers.append(name, value.clone());
        }
        let mut builder = reqwest::Client::builder();
        if config.url.starts_with("http:") {
            // Otherwise the system must have authorities, which nobody asks here, and an image may have none.
            builder = builder.tls_certs_only([]);
        }
        let http = builder
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(config.timeout)
            .timeout(config.timeout)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| ConfigError(chain(&error)))?;
        let api = Api::from(http, &config.url).map_err(|error| ConfigError(chain(&error)))?;
        Ok(Self { api, deadline: config.timeout, lookback: config.lookback, token_file: config.token_file.clone() })
    }

    /// Asks `query` for its value now.
    pub(super) async fn ask(&self, query: &str) -> Result<Body, Error> {
        let asked = tokio::time::timeout(self.deadline, self.send(query)).await;
        asked.unwrap_or(Err(Error::Deadline(self.deadline)))
    }

    async fn send(&self, query: &str) -> Result<Body, Error> {
        let deadline_ms = i64::try_from(self.deadline.as_millis()).unwrap_or(i64::MAX);
        // Known to servers from 2.43 on; older ones leave it unread.
        let lookback = format!("{}ms", self.lookback.as_millis());
        let mut request = self.api.query(query).timeout(deadline_ms).query("lookback_delta", lookback);
        if let Some(token) = self.token().await? {
            request = request.header(header::AUTHORIZATION, token);
        }
        let mut response = request.post_raw().await.map_err(|error| self.transport(&error))?;
        let status = response.status();
        let json = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !json.is_some_and(|content_type| content_type.starts_with("application/json")) {
            return Err(match status {
                StatusCode::OK => Error::Foreign("its answer is not JSON; is the URL that of a Prometheus?".to_owned()),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Status(
                    status,
                    "; give credentials with --prometheus-token-file, or as http://user:password@…",
                ),
                StatusCode::NOT_FOUND => Error::Status(status, "; the URL is that which /api/v1/query stands below"),
                _ => Error::Status(status, ""),
            });
        }
        let length = usize::try_from(response.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
        let mut body = Vec::with_capacity(length.min(MAX_ANSWER_BYTES));
        while let Some(part) = response.chunk().await.map_err(|error| self.transport(&error))? {
            if body.len() + part.len() > MAX_ANSWER_BYTES {
                return Err(Error::TooLarge);
            }
            body.extend_from_slice(&part);
        }
        Ok(Body(body))
    }

    /// Read for every question: tokens of a cluster are renewed in place.
    async fn token(&self) -> Result<Option<HeaderValue>, Error> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let wrong = |reason: String| Error::Token(path.display().to_string(), reason);
        let text = tokio::fs::read_to_string(path).await.map_err(|error| wrong(error.to_string()))?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
            .map_err(|_| wrong("it holds bytes that no header may have".to_owned()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn transport(&self, error: &(dyn std::error::Error + 'static)) -> Error {
        let mut source = Some(error);
        while let Some(error) = source {
            if error.downcast_ref::<reqwest::Error>().is_some_and(|error| error.is_timeout() && !error.is_connect()) {
                return Error::Deadline(self.deadline);
            }
            source = error.source();
        }
        Error::Unreachable(chain(error))
    }
}

/// An error with its causes, without the URL, which may hold a password.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let text = text.split(" for url (").next().unwrap_or_default().to_owned();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}
