//! Tokens of service accounts, as text: what one says, and whether a key has signed it. Values in, values out.
//!
//! What a token says is believed when its signature was checked here, or when the API server said that it is good.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::{Deserialize, de::DeserializeOwned};

use super::caller::{Pod, Refusal};

/// For whom tokens are that are sent to Weir.
pub const AUDIENCE: &str = "weir";

/// A token, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Token<'a> {
    /// Which key has signed it.
    pub(super) key: String,
    algorithm: String,
    signed: &'a str,
    signature: Vec<u8>,
    claims: Claims,
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Claims {
    iss: String,
    #[serde(default)]
    aud: Audience,
    exp: i64,
    #[serde(default)]
    nbf: i64,
    #[serde(default, rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Kubernetes {
    namespace: String,
    pod: Option<Object>,
}

#[derive(Clone, Debug, Deserialize)]
struct Object {
    name: String,
    uid: String,
}

/// Takes a token apart.
///
/// # Errors
///
/// It is none.
pub(super) fn read(text: &str) -> Result<Token<'_>, Refusal> {
    let no_token = || Refusal::Invalid("it is no token of a service account".to_owned());
    let (signed, signature) = text.rsplit_once('.').ok_or_else(no_token)?;
    let (header, claims) = signed.split_once('.').ok_or_else(no_token)?;
    let header: Header = part(header).ok_or_else(no_token)?;
    let claims: Claims = part(claims).ok_or_else(no_token)?;
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| no_token())?;
    Ok(Token { key: header.kid, algorithm: header.alg, signed, signature, claims })
}

fn part<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

impl Token<'_> {
    /// The pod's `metadata.uid`; empty when it is bound to none.
    pub(super) fn uid(&self) -> &str {
        self.claims.kubernetes.pod.as_ref().map_or("", |pod| &pod.uid)
    }

    /// The pod that it says it is of, if it is for Weir, and now.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub(super) fn pod(&self, now: Timestamp) -> Result<Pod, Refusal> {
        let invalid = |why: &str| Err(Refusal::Invalid(why.to_owned()));
        let Claims { iss: _, aud, exp, nbf, kubernetes } = &self.claims;
        let audiences = match aud {
            Audience::One(one) => std::slice::from_ref(one),
            Audience::Several(several) => several,
        };
        if !audiences.iter().any(|audience| audience == AUDIENCE) {
            return invalid("the token is for another audience than \"weir\"");
        }
        let Ok(until) = Timestamp::from_second(*exp) else { return invalid("the token's end is no time") };
        if until <= now {
            return invalid("the token has expired");
        }
        // Clocks of API servers differ a little.
        if *nbf > now.as_second() + 60 {
            return invalid("the token is not good yet");
        }
        match &kubernetes.pod {
            Some(Object { name, uid }) if !(kubernetes.namespace.is_empty() || name.is_empty() || uid.is_empty()) => {
                Ok(Pod { namespace: kubernetes.namespace.clone(), name: name.clone(), until })
            }
            _ => invalid("the token is bound to no pod: mount a projected one (`serviceAccountToken`)"),
        }
    }
}

/// The keys with which an API server signs.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    issuer: String,
    keys: Vec<Key>,
}

/// RFC 7517, as far as API servers use it.
#[derive(Clone, Debug, Deserialize)]
struct Key {
    #[serde(default)]
    kid: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

impl Keys {
    /// Reads what `/.well-known/openid-configuration` and `/openid/v1/jwks` say.
    ///
    /// # Errors
    ///
    /// They are of another form.
    pub(super) fn read(configuration: &str, keys: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Configuration {
            issuer: String,
        }
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Key>,
        }
        let Configuration { issuer } = serde_json::from_str(configuration)?;
        let Set { keys } = serde_json::from_str(keys)?;
        Ok(Self { issuer, keys })
    }

    /// Whether one of them has signed the token; `None`: none of them has its name.
    pub(super) fn signed(&self, token: &Token<'_>) -> Option<bool> {
        let key = self.keys.iter().find(|key| key.kid == token.key)?;
        Some(token.claims.iss == self.issuer && key.verify(token).unwrap_or(false))
    }
}

impl Key {
    /// The algorithm is ours to choose, by what the key is; a token that says another is not believed.
    fn verify(&self, token: &Token<'_>) -> Option<bool> {
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok();
        let signed = token.signed.as_bytes();
        match token.algorithm.as_str() {
            "RS256" if !self.n.is_empty() => {
                let key = RsaPublicKeyComponents { n: decode(&self.n)?, e: decode(&self.e)? };
                Some(key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, signed, &token.signature).is_ok())
            }
            "ES256" if !self.x.is_empty() => {
                let point = [&[4][..], &decode(&self.x)?, &decode(&self.y)?].concat();
                let key = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
                Some(key.verify(signed, &token.signature).is_ok())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
