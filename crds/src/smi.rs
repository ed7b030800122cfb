//! SMI's `TrafficSplit` and `HTTPRouteGroup`, in all their versions.
//!
//! All versions are served with one lenient schema and without conversion: what somebody writes in one version others read in theirs,
//! unchanged, and Weir recognises the shape. So nothing has to run for objects to be read and written.

use std::collections::BTreeMap;

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceColumnDefinition, CustomResourceConversion, CustomResourceDefinition,
        CustomResourceDefinitionNames, CustomResourceDefinitionSpec, CustomResourceDefinitionVersion,
        CustomResourceValidation, JSONSchemaProps,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Versions of both kinds, the newest last, in which objects are stored.
pub const VERSIONS: [&str; 4] = ["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"];

/// `TrafficSplit` of `split.smi-spec.io`, as it is written in any version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficSplit {
    /// Name, namespace and age.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it says.
    pub spec: TrafficSplitSpec,
}

/// See [`TrafficSplit`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficSplitSpec {
    /// The root Service.
    #[serde(default)]
    pub service: String,
    /// Who gets its requests.
    #[serde(default)]
    pub backends: Vec<SplitBackend>,
    /// Groups of which a request must match one.
    #[serde(default)]
    pub matches: Vec<MatchRef>,
}

/// A backend of a [`TrafficSplit`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitBackend {
    /// The Service.
    pub service: String,
    /// A whole number, or a Kubernetes quantity.
    #[serde(default)]
    pub weight: Value,
}

/// Names an `HTTPRouteGroup`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchRef {
    /// `specs.smi-spec.io`; of no meaning.
    #[serde(default, rename = "apiGroup", skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
    /// `HTTPRouteGroup`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// `HTTPRouteGroup` of `specs.smi-spec.io`, as it is written in any version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpRouteGroup {
    /// Name and namespace.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it matches, from v1alpha3 on.
    #[serde(default)]
    pub spec: HttpRouteGroupSpec,
    /// What it matches, before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<HttpMatch>,
}

/// See [`HttpRouteGroup`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpRouteGroupSpec {
    /// Any of these.
    #[serde(default)]
    pub matches: Vec<HttpMatch>,
}

/// One match: all that it names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMatch {
    /// Its name in the group.
    #[serde(default)]
    pub name: String,
    /// A regular expression that the path begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_regex: Option<String>,
    /// Any of these methods; `*` and none are all.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Headers with regular expressions.
    #[serde(default)]
    pub headers: Headers,
}

/// Headers with regular expressions: SMI's text says one object, its definition a list of objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected headers with regular expressions, which are text (quote numbers), as one object or a list of objects"
)]
pub enum Headers {
    /// One object.
    Map(BTreeMap<String, String>),
    /// Several.
    List(Vec<BTreeMap<String, String>>),
}

impl Default for Headers {
    fn default() -> Self {
        Self::Map(BTreeMap::new())
    }
}

impl Headers {
    /// All of them; one that is named twice comes twice.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        let maps: Vec<&BTreeMap<String, String>> = match self {
            Self::Map(map) => vec![map],
            Self::List(list) => list.iter().collect(),
        };
        maps.into_iter().flatten()
    }
}

/// The definition of `TrafficSplit`.
#[must_use]
pub fn traffic_splits() -> CustomResourceDefinition {
    let backends = json!({
        "type": "array",
        "description": "Who gets its requests.",
        "items": {
            "type": "object",
            "description": "A Service and its part.",
            "required": ["service", "weight"],
            "properties": {
                "service": {"type": "string", "description": "The Service, of the same namespace."},
                "weight": {
                    "description": "Its weight, relative to that of the others: a whole number, or a Kubernetes quantity such as 500m.",
                    "x-kubernetes-preserve-unknown-fields": true,
                },
            },
        },
    });
    let matches = json!({
        "type": "array",
        "description": "Groups that say which requests are shared out, any of them; absent: all. The rest stays with the root.",
        "items": {
            "type": "object",
            "description": "Names a group.",
            "required": ["kind", "name"],
            "properties": {
                "apiGroup": {"type": "string", "description": "specs.smi-spec.io."},
                "kind": {"type": "string", "enum": ["HTTPRouteGroup"], "description": "Its kind."},
                "name": {"type": "string", "description": "Its name, in the same namespace."},
            },
        },
    });
    let spec = json!({
        "type": "object",
        "description": "How the requests for a Service are shared out among others.",
        "required": ["service", "backends"],
        "properties": {
            "service": {"type": "string", "description": "The root Service, whose requests are shared out."},
            "backends": backends,
            "matches": matches,
        },
    });
    let column = CustomResourceColumnDefinition {
        name: "Service".into(),
        type_: "string".into(),
        json_path: ".spec.service".into(),
        description: Some("The root Service.".into()),
        ..CustomResourceColumnDefinition::default()
    };
    definition(
        "split.smi-spec.io",
        ["TrafficSplit", "trafficsplit", "trafficsplits", "ts"],
        vec![column],
        [("spec", spec)],
    )
}

/// The definition of `HTTPRouteGroup`.
#[must_use]
pub fn http_route_groups() -> CustomResourceDefinition {
    let matches = || {
        json!({
            "type": "array",
            "description": "Requests, any of these.",
            "items": {
                "type": "object",
                "description": "Requests that fit all of this.",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "description": "Its name in the group."},
                    "pathRegex": {"type": "string", "description": "A regular expression that the path begins with."},
                    "methods": {
                        "type": "array",
                        "description": "Any of these methods.",
                        "items": {
                            "type": "string",
                            "enum": ["*", "GET", "HEAD", "PUT", "POST", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"],
                        },
                    },
                    "headers": {
                        "description": "Headers with regular expressions, as one object or as a list of them.",
                        "x-kubernetes-preserve-unknown-fields": true,
                    },
                },
            },
        })
    };
    let spec = json!({
        "type": "object",
        "description": "Which requests belong to the group.",
        "properties": {"matches": matches()},
    });
    let names = ["HTTPRouteGroup", "httproutegroup", "httproutegroups", "htr"];
    // Before v1alpha3 there was no spec.
    definition("specs.smi-spec.io", names, Vec::new(), [("spec", spec), ("matches", matches())])
}

fn definition<const N: usize>(
    group: &str,
    [kind, singular, plural, short]: [&str; 4],
    columns: Vec<CustomResourceColumnDefinition>,
    fields: [(&str, Value); N],
) -> CustomResourceDefinition {
    let properties: BTreeMap<&str, Value> = fields.into_iter().collect();
    let schema = json!({
        "type": "object",
        "description": format!("{kind} of the Service Mesh Interface; all versions have this schema."),
        "properties": properties,
    });
    let schema: JSONSchemaProps = serde_json::from_value(schema).expect("a schema");
    let version = |name: &&str| CustomResourceDefinitionVersion {
        name: (*name).to_owned(),
        served: true,
        storage: Some(name) == VERSIONS.last(),
        schema: Some(CustomResourceValidation { open_api_v3_schema: Some(schema.clone()) }),
        additional_printer_columns: (!columns.is_empty()).then(|| columns.clone()),
        ..CustomResourceDefinitionVersion::default()
    };
    CustomResourceDefinition {
        metadata: ObjectMeta { name: Some(format!("{plural}.{group}")), ..ObjectMeta::default() },
        spec: CustomResourceDefinitionSpec {
            group: group.to_owned(),
            names: CustomResourceDefinitionNames {
                kind: kind.to_owned(),
                singular: Some(singular.to_owned()),
                plural: plural.to_owned(),
                short_names: Some(vec![short.to_owned()]),
                ..CustomResourceDefinitionNames::default()
            },
            scope: "Namespaced".to_owned(),
            conversion: Some(CustomResourceConversion { strategy: "None".to_owned(), webhook: None }),
            versions: VERSIONS.iter().map(version).collect(),
            ..CustomResourceDefinitionSpec::default()
        },
        status: None,
    }
}
