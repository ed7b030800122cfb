//! Resources as people read them: JSON with Envoy's field names, keys sorted, nested `Any`s opened.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Map, Value, json};

use crate::xds::{resources::Resource, wire};

/// Descriptors of the messages that `resources` builds.
static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let embedded = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.bin")).as_slice();
    DescriptorPool::decode(embedded).expect("the build script embedded a closed descriptor set")
});

/// Bytes that cannot be printed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a protobuf message of the expected type.
    #[error("{name:?} is not a resource")]
    Decode {
        /// The resource.
        name: String,
        /// Why.
        #[source]
        source: prost::DecodeError,
    },
    /// No descriptor for this type, or for one inside.
    #[error("{name:?} of type {type_url:?} has a type without a descriptor")]
    Unknown {
        /// The resource.
        name: String,
        /// Its type.
        type_url: String,
    },
}

/// `{name, version, resource: {"@type": …}}`, the same text for equal resources.
///
/// # Errors
///
/// The bytes are not a resource of a type that Weir builds.
pub fn json(resource: &Resource) -> Result<Value, Error> {
    encoded(&resource.name, &resource.encoded)
}

/// Like [`json()`], of the encoded `Resource` alone (a table's entry, or out of a response); `name` is for errors.
///
/// # Errors
///
/// As [`json()`].
pub fn encoded(name: &str, bytes: &[u8]) -> Result<Value, Error> {
    let decode_error = |source| Error::Decode { name: name.into(), source };
    let wire::Resource { version, resource, name: own_name, aliases: _ } =
        wire::Resource::decode(bytes).map_err(decode_error)?;
    let any = resource.unwrap_or_default();
    Ok(sorted(json!({"name": own_name, "version": version, "resource": open(name, any)?})))
}

/// A message by itself, without its type.
///
/// # Errors
///
/// As [`json()`].
pub fn message<M: prost::Name>(message: &M) -> Result<Value, Error> {
    let any = wire::Any { type_url: M::type_url(), value: message.encode_to_vec().into() };
    let mut fields = open(M::NAME, any)?;
    fields.remove("@type");
    Ok(sorted(Value::Object(fields)))
}

fn open(name: &str, any: wire::Any) -> Result<Map<String, Value>, Error> {
    let wire::Any { type_url, value } = any;
    let decode_error = |source| Error::Decode { name: name.into(), source };
    let unknown = || Error::Unknown { name: name.into(), type_url: type_url.clone() };
    let full_name = type_url.rsplit('/').next().unwrap_or_default();
    let descriptor = DESCRIPTORS.get_message_by_name(full_name).ok_or_else(unknown)?;
    let message = DynamicMessage::decode(descriptor, value).map_err(decode_error)?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    let body = message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|_| unknown())?;
    let mut with_type = Map::from_iter([("@type".to_owned(), type_url.clone().into())]);
    if let Value::Object(fields) = body {
        with_type.extend(fields);
    }
    Ok(with_type)
}

/// Protobuf maps come in random order; whether `serde_json` sorts depends on the features of the whole build.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(String, Value)> = fields.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        intent::{Inbound, PodIntent, Priority, Protocol, Route, ServiceIntent, ServiceKey},
        xds::{ResourceType, resources},
    };

    fn built(protocol: Protocol) -> Vec<Resource> {
        let inbound =
            Inbound { listener: ([127, 0, 0, 1], 15080).into(), application: ([127, 0, 0, 1], 8080).into(), protocol };
        let pod = PodIntent { inbound: vec![inbound], ..PodIntent::default() };
        let intent = ServiceIntent {
            limits: Vec::new(),
            routes: vec![Route {
                name: "all".into(),
                matches: Vec::new(),
                limits: Vec::new(),
                priority: Priority::Default,
                classes: Vec::new(),
            }],
            pods: [("checkout-0".to_owned(), pod)].into(),
        };
        resources::build(&ServiceKey { namespace: "ns-a".into(), name: "checkout".into() }, &intent)
    }

    #[test]
    fn everything_that_is_built_prints_with_nested_types_opened() {
        for protocol in [Protocol::Http, Protocol::Http2, Protocol::Tcp] {
            for resource in built(protocol) {
                let printed = json(&resource).expect("prints");
                assert_eq!(printed["name"], *resource.name);
                assert_eq!(printed["resource"]["@type"], resource.resource_type.type_url());
                assert_eq!(json(&resource).expect("prints"), printed);
                if resource.resource_type == ResourceType::Listener && protocol == Protocol::Http {
                    let filter =
                        "/resource/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/stat_prefix";
                    assert_eq!(printed.pointer(filter), Some(&"weir.limit.narrow".into()));
                }
            }
        }
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(matches!(encoded("x", b"\xff\xff"), Err(Error::Decode { .. })));
        assert!(matches!(encoded("x", b""), Err(Error::Unknown { .. })));
    }
}
