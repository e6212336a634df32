//! The JSON patch (RFC 6902) that puts a sidecar into a pod.

use serde_json::{Map, Value, json};

use crate::installation::{Installation, Placement};
use crate::pod::Pod;
use crate::ports::PortSet;
use crate::probes::{self, Probes, containers, name, through_sidecar};
use crate::settings::{STATUS, Settings};
use crate::sidecar;

/// The container that `kubectl` means where none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// One `add` of a patch: it creates a member, replaces the one that is there, or inserts into an array (RFC 6902, 4.1).
/// Nothing else is needed to put something into a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Add {
    /// JSON pointer (RFC 6901).
    pub path: String,
    /// What is added.
    pub value: Value,
}

impl Add {
    pub(crate) fn new(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { path: path.into(), value: value.into() }
    }

    /// The operation as the patch carries it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({"op": "add", "path": self.path, "value": self.value})
    }
}

/// The patch for `object`, of which `pod` was read and for which the decision was to inject.
///
/// The container that redirects traffic comes first. A native sidecar follows it, so that the pod's own init containers
/// already have the mesh. Without native sidecars nothing would answer redirected connections while init containers run, so
/// redirection comes after the last of them; the sidecar is the first of the ordinary containers, which Kubernetes starts in
/// their order.
#[must_use]
pub fn patch(object: &Value, pod: &Pod, settings: &Settings, installation: &Installation) -> Vec<Add> {
    let placement = installation.kubernetes.placement();
    let proxy_at = match placement {
        Placement::NativeSidecar => 0,
        Placement::Container => usize::MAX,
    };
    // Before anything else is added: its paths have the places that containers have now.
    let (mut patch, probes) = through_sidecar(object, &settings.skip_inbound_ports, proxy_at, Probes::default());
    let init = sidecar::init(settings, installation);
    let proxy = sidecar::proxy(pod, settings, installation, &probes);
    patch.extend(annotations(object, installation));
    if !object.get("spec").is_some_and(Value::is_object) {
        patch.push(Add::new("/spec", Map::new()));
    }
    let none = pod.spec.init_containers.is_empty();
    match placement {
        Placement::NativeSidecar => {
            patch.extend(insert("/spec/initContainers", none, End::Front, vec![init, proxy]));
        }
        Placement::Container => {
            patch.extend(insert("/spec/initContainers", none, End::Back, vec![init]));
            patch.extend(insert("/spec/containers", pod.spec.containers.is_empty(), End::Front, vec![proxy]));
        }
    }
    patch.extend(insert("/spec/volumes", pod.spec.volumes.is_empty(), End::Back, sidecar::volumes(installation).into()));
    patch
}

/// The patch for a pod that has a sidecar already, and to which others have added containers or probes since. Empty if there is
/// nothing to do.
#[must_use]
pub fn complete(object: &Value) -> Vec<Add> {
    let lists = ["initContainers", "containers"].into_iter();
    let find = |wanted: &str| {
        let places = lists.clone().flat_map(|list| containers(object, list).map(move |(index, it)| (list, index, it)));
        places.into_iter().find(|(_, _, container)| name(container) == wanted)
    };
    let Some((list, index, proxy)) = find(sidecar::PROXY) else { return Vec::new() };
    // What counts is what is in force, and that is what the container was told.
    let direct = find(sidecar::INIT).and_then(|(_, _, init)| variable(init, sidecar::SKIP_INBOUND_PORTS));
    let direct = direct.and_then(|(_, ports)| ports.parse().ok()).unwrap_or_else(|| PortSet::of(&[sidecar::ADMIN_PORT]));
    let told = variable(proxy, probes::VARIABLE);
    let known = told.map(|(_, text)| Probes::of_text(text)).unwrap_or_default();
    let proxy_at = if list == "initContainers" { index } else { usize::MAX };
    let (mut patch, probes) = through_sidecar(object, &direct, proxy_at, known.clone());
    if probes != known {
        let environment = format!("/spec/{list}/{index}/env");
        let entry = || json!({"name": probes::VARIABLE, "value": probes.to_text()});
        let has_environment = proxy.get("env").is_some_and(Value::is_array);
        patch.push(match told {
            Some((at, _)) => Add::new(format!("{environment}/{at}/value"), probes.to_text()),
            None if has_environment => Add::new(format!("{environment}/-"), entry()),
            None => Add::new(environment, vec![entry()]),
        });
    }
    patch
}

/// An environment variable of a container, with its place.
fn variable<'a>(container: &'a Value, variable: &str) -> Option<(usize, &'a str)> {
    let environment = container.get("env").and_then(Value::as_array)?;
    let at = environment.iter().position(|it| name(it) == variable)?;
    Some((at, environment.get(at)?.get("value").and_then(Value::as_str).unwrap_or_default()))
}

/// A patch that is not for the object that it was applied to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no place in the object for `{0}`: the patch was made for another one")]
pub struct Misfit(String);

/// Does to an object what the API server would do with the patch.
///
/// # Errors
///
/// [`Misfit`] names the first path that the object has no place for; what came before it is then applied already.
pub fn apply(object: &mut Value, patch: &[Add]) -> Result<(), Misfit> {
    patch.iter().try_for_each(|add| put(object, add).ok_or_else(|| Misfit(add.path.clone())))
}

fn put(object: &mut Value, add: &Add) -> Option<()> {
    let (parent, key) = add.path.rsplit_once('/')?;
    match object.pointer_mut(parent)? {
        Value::Object(members) => {
            members.insert(key.replace("~1", "/").replace("~0", "~"), add.value.clone());
        }
        Value::Array(items) if key == "-" => items.push(add.value.clone()),
        Value::Array(items) => {
            let at = key.parse::<usize>().ok().filter(|at| *at <= items.len())?;
            items.insert(at, add.value.clone());
        }
        _ => return None,
    }
    Some(())
}

fn annotations(object: &Value, installation: &Installation) -> Vec<Add> {
    let metadata = object.get("metadata").filter(|it| it.is_object());
    let present = metadata.and_then(|it| it.get("annotations")).filter(|it| it.is_object());
    let mut patch = Vec::new();
    if metadata.is_none() {
        patch.push(Add::new("/metadata", Map::new()));
    }
    if present.is_none() {
        patch.push(Add::new("/metadata/annotations", Map::new()));
    }
    // `/` in a member's name is written `~1` (RFC 6901, section 3).
    let path = |name: &str| format!("/metadata/annotations/{}", name.replace('~', "~0").replace('/', "~1"));
    patch.push(Add::new(path(STATUS), sidecar::status(installation)));
    // The first container is the one that `kubectl logs` and `kubectl exec` mean, and the application's was first until now.
    let first = containers(object, "containers").next().map(|(_, it)| name(it)).filter(|name| !name.is_empty());
    if let Some(first) = first
        && installation.kubernetes.placement() == Placement::Container
        && present.is_none_or(|it| it.get(DEFAULT_CONTAINER).is_none())
    {
        patch.push(Add::new(path(DEFAULT_CONTAINER), first));
    }
    patch
}

#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

/// Adds items to an array. One that is missing, `null` or empty is written anew.
fn insert(array: &str, is_new: bool, end: End, items: Vec<Value>) -> Vec<Add> {
    if is_new {
        return vec![Add::new(array, items)];
    }
    let place = |(i, item)| match end {
        End::Front => Add::new(format!("{array}/{i}"), item),
        End::Back => Add::new(format!("{array}/-"), item),
    };
    items.into_iter().enumerate().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_applied_as_rfc_6902_says() {
        let mut object = json!({"a": [1, 2], "b": {"x/y": 1}});
        let patch = [Add::new("/a/0", 0), Add::new("/a/-", 3), Add::new("/b/x~1y", 2), Add::new("/c", Map::new())];
        assert_eq!(apply(&mut object, &patch), Ok(()));
        assert_eq!(object, json!({"a": [0, 1, 2, 3], "b": {"x/y": 2}, "c": {}}));
        for path in ["/a/9", "/a/x", "/none/x", "/a/0/x", "a", ""] {
            assert_eq!(apply(&mut object, &[Add::new(path, 1)]), Err(Misfit(path.into())), "{path}");
        }
    }
}
