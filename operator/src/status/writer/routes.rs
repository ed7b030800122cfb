//! The status of a route belongs to several controllers, and the list in it is written as a whole: whoever writes must have read the
//! newest one.

use kube::{
    Api,
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use serde_json::{Value, json};

use super::{MANAGER, Write};
use crate::status::{OwnStatus, routes::is_ours};

/// How often it is read again when somebody else was faster.
const TRIES: usize = 5;

/// Replaces the entries of ours in the status of a route. `None`: it is gone, or another one by now, or others write all the time.
pub(super) async fn write(api: &Api<DynamicObject>, write: &Write) -> Result<Option<DynamicObject>, kube::Error> {
    for _ in 0..TRIES {
        let Some(found) = api.get_opt(&write.key.name).await?.filter(|it| it.metadata.uid.as_ref() == Some(&write.uid))
        else {
            return Ok(None);
        };
        let patch = json!({
            "metadata": {"resourceVersion": found.metadata.resource_version},
            "status": {"parents": merged(&found.data["status"], &write.status)},
        });
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match api.patch_status(&write.key.name, &parameters, &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            written => return written.map(Some),
        }
    }
    Ok(None)
}

/// The entries of others as they are, then ours.
fn merged(standing: &Value, status: &OwnStatus) -> Vec<Value> {
    let others = standing["parents"].as_array().into_iter().flatten().filter(|entry| !is_ours(entry));
    let ours = serde_json::to_value(status).map(|mut status| status["parents"].take()).unwrap_or_default();
    others.chain(ours.as_array().into_iter().flatten()).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::RouteStatus;

    #[test]
    fn entries_of_others_are_kept_and_ours_replaced() {
        let entry =
            |controller: &str| json!({"controllerName": controller, "parentRef": {"name": "a"}, "conditions": []});
        let standing = json!({"parents": [entry("weir.dev/controller"), entry("a"), entry("b")]});
        let none = OwnStatus::Route(RouteStatus::default());
        assert_eq!(merged(&standing, &none), [entry("a"), entry("b")]);
        assert_eq!(merged(&Value::Null, &none), [] as [Value; 0]);
    }
}
