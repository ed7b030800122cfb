//! The environment of a container, and what refers to it.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Secret};
use kube::Api;

use super::{container::PROGRAMS, pod::Place};

/// What it is started with.
pub(super) async fn environment(place: &Place, container: &Container) -> anyhow::Result<BTreeMap<String, String>> {
    let client = &place.host.client;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), place.namespace());
    let secrets = Api::<Secret>::namespaced(client.clone(), place.namespace());
    let mut environment = BTreeMap::from([
        ("PATH".to_owned(), format!("{PROGRAMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")),
        ("HOME".to_owned(), "/".to_owned()),
        ("HOSTNAME".to_owned(), place.name().to_owned()),
        ("KUBERNETES_SERVICE_HOST".to_owned(), place.host.api_server.to_string()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), "443".to_owned()),
    ]);
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut add = |(name, value): (String, String)| environment.insert(format!("{prefix}{name}"), value);
        if let Some(map) = &source.config_map_ref {
            let map = maps.get(&map.name).await.with_context(|| format!("ConfigMap {}", map.name))?;
            map.data.into_iter().flatten().for_each(|pair| drop(add(pair)));
        }
        if let Some(secret) = &source.secret_ref {
            let secret = secrets.get(&secret.name).await.with_context(|| format!("Secret {}", secret.name))?;
            let data = secret.data.into_iter().flatten();
            data.for_each(|(name, value)| drop(add((name, String::from_utf8_lossy(&value.0).into_owned()))));
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => expand(value, &environment),
            (None, Some(source)) => {
                let value = from(place, container, &maps, &secrets, source).await;
                match value.with_context(|| format!("the variable {}", variable.name))? {
                    Some(value) => value,
                    None => continue,
                }
            }
            (None, None) => String::new(),
        };
        environment.insert(variable.name.clone(), value);
    }
    Ok(environment)
}

/// The value of a variable; `None` where what it refers to is optional and not there.
async fn from(
    place: &Place,
    container: &Container,
    maps: &Api<ConfigMap>,
    secrets: &Api<Secret>,
    source: &EnvVarSource,
) -> anyhow::Result<Option<String>> {
    if let Some(field) = &source.field_ref {
        return self::field(place, &field.field_path).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        let (kind, resource) = field.resource.split_once('.').context("limits. or requests.")?;
        let resources = container.resources.as_ref();
        let of = if kind == "limits" {
            resources.and_then(|all| all.limits.as_ref())
        } else {
            resources.and_then(|all| all.requests.as_ref())
        };
        let quantity = of.and_then(|of| of.get(resource)).map_or_else(|| "0".to_owned(), |quantity| quantity.0.clone());
        return Ok(Some(quantity));
    }
    let (found, optional, key) = if let Some(of) = &source.config_map_key_ref {
        let map = maps.get_opt(&of.name).await?;
        (map.and_then(|map| map.data?.remove(&of.key)), of.optional, format!("ConfigMap {}: {}", of.name, of.key))
    } else if let Some(of) = &source.secret_key_ref {
        let secret = secrets.get_opt(&of.name).await?;
        let value = secret.and_then(|secret| secret.data?.remove(&of.key));
        let value = value.map(|value| String::from_utf8_lossy(&value.0).into_owned());
        (value, of.optional, format!("Secret {}: {}", of.name, of.key))
    } else {
        bail!("this source of a variable is not known to the test kit's node");
    };
    if found.is_none() && optional != Some(true) {
        bail!("{key} is not there");
    }
    Ok(found)
}

/// A field of the pod, as the downward API gives it.
pub(super) fn field(place: &Place, path: &str) -> anyhow::Result<String> {
    let metadata = &place.pod.metadata;
    let entry = |prefix: &str, map: &Option<BTreeMap<String, String>>| {
        let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
        Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default())
    };
    if let Some(value) = entry("metadata.labels['", &metadata.labels) {
        return Ok(value);
    }
    if let Some(value) = entry("metadata.annotations['", &metadata.annotations) {
        return Ok(value);
    }
    let all = |map: &Option<BTreeMap<String, String>>| {
        map.iter().flatten().map(|(key, value)| format!("{key}={value:?}\n")).collect::<String>()
    };
    Ok(match path {
        "metadata.name" => place.name().to_owned(),
        "metadata.namespace" => place.namespace().to_owned(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => all(&metadata.labels),
        "metadata.annotations" => all(&metadata.annotations),
        "spec.nodeName" => place.host.name.clone(),
        "spec.serviceAccountName" => place.spec().service_account_name.clone().unwrap_or_default(),
        "status.podIP" | "status.podIPs" => place.sandbox.address.to_string(),
        "status.hostIP" | "status.hostIPs" => place.host.bridge.gateway().to_string(),
        other => bail!("the field {other} is not known to the test kit's node"),
    })
}

/// Replaces `$(NAME)` by the value of that variable where there is one; `$$` stands for a `$`.
pub(super) fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let reference = after.strip_prefix('(').and_then(|inside| inside.split_once(')'));
        rest = match (after.strip_prefix('$'), reference) {
            (Some(escaped), _) => {
                expanded.push('$');
                escaped
            }
            (None, Some((name, after))) if environment.contains_key(name) => {
                expanded.push_str(&environment[name]);
                after
            }
            _ => {
                expanded.push('$');
                after
            }
        };
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::expand;

    #[test]
    fn references_are_replaced_where_the_variable_is_known() {
        let environment = BTreeMap::from([("A".to_owned(), "$(B)".to_owned()), ("B".to_owned(), "b".to_owned())]);
        for (text, expected) in [
            ("--listen=$(B):80", "--listen=b:80"),
            ("$(A)", "$(B)"),
            ("$$(B) $(C) $(B $", "$(B) $(C) $(B $"),
            ("plain", "plain"),
        ] {
            assert_eq!(expand(text, &environment), expected);
        }
    }
}
