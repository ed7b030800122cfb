//! Tokens as an API server makes them; the one of RSA was signed with a key that is gone.

use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};

use super::*;

/// Of shop/cart-0, for Weir, good until 2100.
const RSA_TOKEN: &str = "eyJhbGciOiAiUlMyNTYiLCAia2lkIjogInJzYSJ9.eyJpc3MiOiAiaHR0cHM6Ly9rdWJlcm5ldGVzLmRlZmF1bHQuc3ZjIiwgImF1ZCI6IFsid2VpciJdLCAiZXhwIjogNDEwMjQ0NDgwMCwgIm5iZiI6IDAsICJzdWIiOiAic3lzdGVtOnNlcnZpY2VhY2NvdW50OnNob3A6Y2FydCIsICJrdWJlcm5ldGVzLmlvIjogeyJuYW1lc3BhY2UiOiAic2hvcCIsICJwb2QiOiB7Im5hbWUiOiAiY2FydC0wIiwgInVpZCI6ICI2ZjFjIn19fQ.BL7WjNE6X4KyhrPmLvplz7atmE6VpJ-tqE3TbN9_-qg-8jutAYK3T1Yf5ugttXlH4TiZPZvgoNkv_V5tpiowesciGfurb3KlzbY46uLlH-lQmqo4rDMb3I8GjukwLWkt5Bt7G4_ydh5ezvNASGHyQwBro5BLkHFD77INPyzqhCneTAQ3L16-B6AfkuI5EID7kylh7uhAdEjTcpyfaJC_tv71MrvfloPFs7PMvTdgyPfolO0r_k3StsIuLu0RNne1nmbnic5LNGdT43SYmK6Y49jFA4_qEFe9zur6gKYgY6enHxoL_2Uv2JYqiz1i_6AImMFmSJcbOO_Bs5K_kkPixA";
const RSA_MODULUS: &str = "nJhGCuJW3pPmmutp1eO8ZjpbNhR-tN4nZ_KSXO7J9kcHbJCule5OjP4_wsQY8WSD0hHuxx9Ekl1ztrVMChtwve4dLJGV7evggSJmEbrxRD75333_y6rH2YTo9OCKqOPUJ-RsAp6KPSfAlvGfSWaSdXx2KWlME4qusfnfxUsg3y97cEBLLjmH7IL_wynte1035IJHHaScTe8bX-rQHl4RuOv7ZbJ5YHC9uUxwP1TJaBKS6A0PiBJUC8uoEYA0Yn7ak4t5tYWseU6ElrqO8sIaXhFCpalLgBcHZVJQsnYotSlRJjU_QoyCxpNv3velyyxTRr_r1k7t5MyVe-6b8IOGpQ";
const CONFIGURATION: &str = r#"{"issuer": "https://kubernetes.default.svc"}"#;

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn claims() -> Value {
    json!({
        "iss": "https://kubernetes.default.svc", "aud": ["weir"], "exp": now().as_second() + 3600, "nbf": now().as_second(),
        "kubernetes.io": {"namespace": "shop", "pod": {"name": "cart-0", "uid": "6f1c"}},
    })
}

struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap())
    }

    fn keys(&self) -> Keys {
        let point = self.0.public_key().as_ref();
        let part = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let key = json!({"kid": "ec", "kty": "EC", "x": part(&point[1..33]), "y": part(&point[33..])});
        Keys::read(CONFIGURATION, &json!({"keys": [key]}).to_string()).unwrap()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "ec"})
}

#[test]
fn a_good_token_is_of_its_pod_and_signed_by_either_algorithm() {
    let rsa = json!({"keys": [{"kid": "rsa", "kty": "RSA", "n": RSA_MODULUS, "e": "AQAB"}]});
    let keys = Keys::read(CONFIGURATION, &rsa.to_string()).unwrap();
    let token = read(RSA_TOKEN).unwrap();
    let pod = token.pod(now()).unwrap();
    assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("shop", "cart-0"));
    assert_eq!(keys.signed(&token), Some(true));

    let signer = Signer::new();
    let text = signer.sign(&header(), &claims());
    let token = read(&text).unwrap();
    assert_eq!(token.pod(now()).unwrap().until, now() + jiff::SignedDuration::from_secs(3600));
    assert_eq!(signer.keys().signed(&token), Some(true));
    assert_eq!(keys.signed(&token), None, "a key of that name is not known");
}

#[test]
fn what_is_forged_is_not_believed() {
    let (signer, other) = (Signer::new(), Signer::new());
    let keys = signer.keys();
    let signed = |text: &str| keys.signed(&read(text).unwrap());
    assert_eq!(signed(&other.sign(&header(), &claims())), Some(false), "another key");
    let mut elsewhere = claims();
    elsewhere["iss"] = "https://elsewhere.example".into();
    assert_eq!(signed(&signer.sign(&header(), &elsewhere)), Some(false), "another cluster");
    for algorithm in ["none", "HS256", "RS256", ""] {
        let text = signer.sign(&json!({"alg": algorithm, "kid": "ec"}), &claims());
        assert_eq!(signed(&text), Some(false), "{algorithm}: the key says the algorithm");
    }
    // Another pod's name under this one's signature.
    let (good, bad) = (signer.sign(&header(), &claims()), {
        let mut claims = claims();
        claims["kubernetes.io"]["pod"]["name"] = "cart-1".into();
        other.sign(&header(), &claims)
    });
    let parts = [bad.rsplit_once('.').unwrap().0, good.rsplit_once('.').unwrap().1];
    assert_eq!(signed(&parts.join(".")), Some(false));
}

#[test]
fn what_is_not_for_weir_and_now_says_why() {
    let signer = Signer::new();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut claims = claims();
        change(&mut claims);
        read(&signer.sign(&header(), &claims)).unwrap().pod(now()).unwrap_err().to_string()
    };
    for (words, change) in [
        (
            "another audience",
            &(|c: &mut Value| c["aud"] = json!(["https://kubernetes.default.svc"])) as &dyn Fn(&mut Value),
        ),
        ("another audience", &|c| c["aud"] = json!("weird")),
        ("has expired", &|c| c["exp"] = json!(now().as_second())),
        ("not good yet", &|c| c["nbf"] = json!(now().as_second() + 120)),
        ("bound to no pod", &|c| c["kubernetes.io"] = json!({"namespace": "shop"})),
        ("bound to no pod", &|c| c["kubernetes.io"]["pod"]["uid"] = json!("")),
        ("bound to no pod", &|c| c["kubernetes.io"] = Value::Null),
    ] {
        if words == "bound to no pod" {
            // A missing part is no token at all in one case, and none of a pod in the others; neither is let in.
            let mut claims = claims();
            change(&mut claims);
            let text = signer.sign(&header(), &claims);
            let said = read(&text).and_then(|token| token.pod(now())).unwrap_err();
            assert_eq!(said.reason(), "invalid", "{said}");
            continue;
        }
        let said = refused(change);
        assert!(said.contains(words), "{words}: {said}");
    }
    let one = {
        let mut claims = claims();
        claims["aud"] = json!("weir");
        signer.sign(&header(), &claims)
    };
    assert!(read(&one).unwrap().pod(now()).is_ok(), "one audience need not be a list");
    for text in ["", "a", "a.b", "a.b.c", "....", &"x.".repeat(10_000), &RSA_TOKEN.replace('.', "")] {
        assert_eq!(read(text).unwrap_err().reason(), "invalid");
    }
}
