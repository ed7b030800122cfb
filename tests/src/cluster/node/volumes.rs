//! The volumes of a pod as folders, filled once: what changes later in a ConfigMap does not reach a pod that runs.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, bail};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret, ServiceAccount, Volume, VolumeProjection},
};
use kube::{Api, api::PostParams};

use super::{environment, pod::Place};

/// Tokens are not renewed; they are good for a day.
const TOKEN_SECONDS: i64 = 24 * 3600;

type Files = BTreeMap<String, Vec<u8>>;

/// Makes `volumes/<name>` in the pod's folder for each of its volumes.
pub(super) async fn prepare(place: &Place) -> anyhow::Result<()> {
    for volume in place.spec().volumes.iter().flatten() {
        let to = place.folder.join("volumes").join(&volume.name);
        fs::create_dir_all(&to)?;
        // Whoever the container runs as may write into an emptyDir.
        let mode = if volume.empty_dir.is_some() { 0o777 } else { 0o755 };
        fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
        let files = files(place, volume).await.with_context(|| format!("the volume {}", volume.name))?;
        for (path, bytes) in files {
            let file = to.join(path);
            fs::create_dir_all(file.parent().context("a file is in a folder")?)?;
            fs::write(&file, bytes)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

async fn files(place: &Place, volume: &Volume) -> anyhow::Result<Files> {
    if volume.empty_dir.is_some() {
        return Ok(Files::new());
    }
    if let Some(source) = &volume.config_map {
        return config_map(place, &source.name, source.items.as_deref(), source.optional).await;
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        return secret(place, name, source.items.as_deref(), source.optional).await;
    }
    if let Some(source) = &volume.projected {
        let mut files = Files::new();
        for part in source.sources.iter().flatten() {
            files.extend(projection(place, part).await?);
        }
        return Ok(files);
    }
    if let Some(source) = &volume.downward_api {
        let items = source.items.iter().flatten();
        return items.map(|item| downward(place, item)).collect();
    }
    bail!("the test kit's node knows emptyDir, configMap, secret, projected and downwardAPI");
}

async fn projection(place: &Place, part: &VolumeProjection) -> anyhow::Result<Files> {
    let mut files = Files::new();
    if let Some(source) = &part.service_account_token {
        let token = token(place, source.audience.as_deref()).await.context("a token of its service account")?;
        files.insert(source.path.clone(), token.into_bytes());
    }
    if let Some(source) = &part.config_map {
        files.extend(config_map(place, &source.name, source.items.as_deref(), source.optional).await?);
    }
    if let Some(source) = &part.secret {
        files.extend(secret(place, &source.name, source.items.as_deref(), source.optional).await?);
    }
    for item in part.downward_api.iter().flat_map(|source| source.items.iter().flatten()) {
        files.extend([downward(place, item)?]);
    }
    Ok(files)
}

async fn config_map(
    place: &Place,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> anyhow::Result<Files> {
    let found = Api::<ConfigMap>::namespaced(place.host.client.clone(), place.namespace()).get_opt(name).await?;
    let all = found.map(|map| {
        let text = map.data.into_iter().flatten().map(|(key, text)| (key, text.into_bytes()));
        text.chain(map.binary_data.into_iter().flatten().map(|(key, bytes)| (key, bytes.0))).collect()
    });
    chosen(all, items, optional).with_context(|| format!("ConfigMap {name}"))
}

async fn secret(
    place: &Place,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> anyhow::Result<Files> {
    let found = Api::<Secret>::namespaced(place.host.client.clone(), place.namespace()).get_opt(name).await?;
    let all = found.map(|secret| secret.data.into_iter().flatten().map(|(key, bytes)| (key, bytes.0)).collect());
    chosen(all, items, optional).with_context(|| format!("Secret {name}"))
}

/// The files that a volume asks for.
fn chosen(all: Option<Files>, items: Option<&[KeyToPath]>, optional: Option<bool>) -> anyhow::Result<Files> {
    let optional = optional == Some(true);
    let Some(mut all) = all else {
        return if optional { Ok(Files::new()) } else { bail!("is not there") };
    };
    let Some(items) = items else { return Ok(all) };
    let mut files = Files::new();
    for item in items {
        match all.remove(&item.key) {
            Some(bytes) => drop(files.insert(item.path.clone(), bytes)),
            None if optional => {}
            None => bail!("has no {}", item.key),
        }
    }
    Ok(files)
}

/// One file of the downward API.
fn downward(place: &Place, item: &DownwardAPIVolumeFile) -> anyhow::Result<(String, Vec<u8>)> {
    let field = item.field_ref.as_ref().context("the test kit's node knows fieldRef only")?;
    Ok((item.path.clone(), environment::field(place, &field.field_path)?.into_bytes()))
}

/// A token that tells which pod has it.
async fn token(place: &Place, audience: Option<&str>) -> anyhow::Result<String> {
    let account = place.spec().service_account_name.as_deref().unwrap_or("default");
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: audience.map(str::to_owned).into_iter().collect(),
            expiration_seconds: Some(TOKEN_SECONDS),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: place.pod.metadata.name.clone(),
                uid: place.pod.metadata.uid.clone(),
            }),
        },
        ..TokenRequest::default()
    };
    let accounts = Api::<ServiceAccount>::namespaced(place.host.client.clone(), place.namespace());
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    Ok(answer.status.context("an answered request has a status")?.token)
}
