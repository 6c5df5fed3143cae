//! Finds out from the output of `kubectl get pods --output=json` which containers are bundles. No I/O.
//!
//! That output doesn't show an image's own label and entrypoint. So a container is a bundle if the manifest gives it a `command`
//! whose program is named `init` or `sidecar`, or if it is the only container of a pod with the label [`LABEL`]. Nothing
//! is executed in any other.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::engine::{BundleRef, LABEL};
use super::identify::{Found, is_our_program, missing, our_path};
use crate::change::reason::Reason;
use crate::text::Printable;

/// The result for each name. Without names: all printed pods, except those that are being deleted, and how many those are. (During a
/// rollout there are some, for as long as their grace lasts.) `container` is the one named by `-c`. `None` if the output can't be
/// understood.
#[must_use]
pub fn identify(
    names: Option<&[String]>,
    container: Option<&str>,
    stdout: &[u8],
    stderr: &[u8],
) -> Option<(Vec<Found>, usize)> {
    let mut pods = parse(stdout)?;
    let found = |asked: &String, pod: Option<&Pod>| Found {
        asked: asked.clone(),
        name: pod.map(|pod| pod.metadata.name.clone()),
        id: pod.map(|pod| pod.metadata.uid.clone()),
        program: pod.and_then(|pod| pod.program(container)),
        stop_signal: None,
        bundle: pod.map_or_else(|| Err(missing("get", asked, stderr)), |pod| pod.judge(container)),
    };
    let Some(names) = names else {
        let all = pods.len();
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        let left = pods.iter().map(|pod| found(&pod.metadata.name, Some(pod))).collect();
        return Some((left, all - pods.len()));
    };
    let pod = |name: &String| pods.iter().find(|pod| pod.metadata.name == *name);
    Some((names.iter().map(|name| found(name, pod(name))).collect(), 0))
}

/// kubectl prints one pod as it is, several pods as a list, and nothing if none of the names exists.
fn parse(stdout: &[u8]) -> Option<Vec<Pod>> {
    #[derive(Deserialize)]
    struct List {
        items: Vec<Pod>,
    }
    if stdout.trim_ascii().is_empty() {
        return Some(Vec::new());
    }
    let list = serde_json::from_slice::<List>(stdout).map(|list| list.items);
    list.or_else(|_| serde_json::from_slice::<Pod>(stdout).map(|pod| vec![pod])).ok()
}

#[derive(Debug, Deserialize)]
struct Pod {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    containers: Vec<Container>,
    #[serde(default)]
    init_containers: Vec<Container>,
    share_process_namespace: Option<bool>,
    #[serde(rename = "hostPID")]
    host_pid: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    #[serde(default)]
    command: Vec<String>,
    restart_policy: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    phase: String,
    #[serde(default)]
    container_statuses: Vec<ContainerStatus>,
    #[serde(default)]
    init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    #[serde(rename = "containerID")]
    container_id: Option<String>,
    #[serde(default)]
    state: BTreeMap<String, Waiting>,
}

#[derive(Debug, Deserialize)]
struct Waiting {
    reason: Option<String>,
}

impl Pod {
    fn judge(&self, asked: Option<&str>) -> Result<BundleRef, Reason> {
        let is_ours = |container: &&Container| container.command.first().is_some_and(|program| is_our_program(program));
        // A native sidecar is an init container that keeps running. All other init containers have ended once the pod runs.
        let native = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
        let inits = self.spec.init_containers.iter().filter(native);
        let all: Vec<&Container> = self.spec.containers.iter().chain(inits).collect();
        let labelled = self.metadata.labels.get(LABEL).is_some_and(|schema| !schema.is_empty());
        let mut ours: Vec<&Container> = all.iter().copied().filter(is_ours).collect();
        if let ([only], true) = (&all[..], labelled) {
            ours = vec![only];
        }
        let names = || all.iter().map(|container| Printable::new(&container.name)).collect();
        let one = match (asked, &ours[..]) {
            (Some(asked), _) if !all.iter().any(|container| container.name == asked) => {
                return Err(Reason::WhichContainer { of: names() });
            }
            (Some(asked), ours) => ours.iter().find(|container| container.name == asked),
            (None, [] | [_]) => ours.first(),
            (None, _) => return Err(Reason::WhichContainer { of: names() }),
        };
        let Some(one) = one else {
            return Err(Reason::StrangePod { container: asked.map(Printable::new) });
        };
        if self.spec.share_process_namespace == Some(true) {
            return Err(Reason::SharesPids { mode: Printable::new("shareProcessNamespace") });
        }
        if self.spec.host_pid == Some(true) {
            return Err(Reason::SharesPids { mode: Printable::new("hostPID") });
        }
        let id = self.runs(&one.name).map_err(|state| Reason::NotUp { state: Printable::new(&state) })?;
        let pod = self.metadata.name.clone();
        Ok(BundleRef::Pod { id: format!("{} {id}", self.metadata.uid), pod, container: one.name.clone() })
    }

    /// The path of the program that the manifest starts the bundle with.
    fn program(&self, asked: Option<&str>) -> Option<String> {
        let Ok(BundleRef::Pod { container, .. }) = self.judge(asked) else { return None };
        let mut all = self.spec.containers.iter().chain(&self.spec.init_containers);
        our_path(all.find(|one| one.name == container)?.command.first()?)
    }

    /// The id of the container that runs under this name, or the state that it is in.
    fn runs(&self, container: &str) -> Result<String, String> {
        if self.metadata.deletion_timestamp.is_some() {
            return Err("its pod is terminating".to_owned());
        }
        let all = self.status.container_statuses.iter().chain(&self.status.init_container_statuses);
        let Some(status) = all.into_iter().find(|status| status.name == container) else {
            return Err(format!("its pod is {}", self.status.phase));
        };
        match (status.state.iter().next(), &status.container_id) {
            (Some((state, _)), Some(id)) if state == "running" => Ok(id.clone()),
            (Some((state, Waiting { reason: Some(reason) })), _) => Err(format!("{state}, {reason}")),
            (Some((state, _)), _) => Err(state.clone()),
            (None, _) => Err("its state is unknown".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What kubectl prints of a pod of an agent and its bundle, as far as it is judged, and some of the rest.
    fn pod() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "b1", "namespace": "agents", "uid": "6d1c", "labels": { "app": "agent" } },
            "spec": {
                "initContainers": [
                    { "name": "setup", "image": "i", "command": ["/sbin/init"] },
                    { "name": "log", "image": "i", "command": ["tail"], "restartPolicy": "Always" }
                ],
                "containers": [
                    { "name": "agent", "image": "i", "command": ["sh", "-c", "agent"] },
                    { "name": "bundle", "image": "i", "command": ["/sbin/init"], "args": [] }
                ],
                "nodeName": "n1"
            },
            "status": {
                "phase": "Running",
                "containerStatuses": [
                    { "name": "agent", "containerID": "containerd://aa", "state": { "running": { "startedAt": "2026-11-24T10:00:00Z" } } },
                    { "name": "bundle", "containerID": "containerd://bb", "state": { "running": { "startedAt": "2026-11-24T10:00:00Z" } } }
                ],
                "initContainerStatuses": [
                    { "name": "setup", "containerID": "containerd://cc", "state": { "terminated": { "reason": "Completed" } } },
                    { "name": "log", "containerID": "containerd://dd", "state": { "running": {} } }
                ]
            }
        })
    }

    /// With one value changed, at a path as in `/spec/containers`.
    fn with(path: &str, value: Value) -> Value {
        let (parent, key) = path.rsplit_once('/').unwrap();
        let mut pod = pod();
        match pod.pointer_mut(parent).unwrap() {
            Value::Object(object) => object.insert(key.to_owned(), value),
            Value::Array(array) => Some(std::mem::replace(&mut array[key.parse::<usize>().unwrap()], value)),
            other => panic!("{other}"),
        };
        pod
    }

    fn one(pod: &Value, container: Option<&str>) -> Result<BundleRef, Reason> {
        let names = ["b1".to_owned()];
        let (mut found, _) = identify(Some(&names), container, pod.to_string().as_bytes(), b"").unwrap();
        assert_eq!(found.len(), 1);
        found.remove(0).bundle
    }

    fn place(id: &str, container: &str) -> BundleRef {
        BundleRef::Pod { id: format!("6d1c containerd://{id}"), pod: "b1".to_owned(), container: container.to_owned() }
    }

    fn which() -> Reason {
        Reason::WhichContainer { of: ["agent", "bundle", "log"].map(Printable::new).to_vec() }
    }

    #[test]
    fn a_container_is_a_bundle_by_the_program_that_the_manifest_starts() {
        assert_eq!(one(&pod(), None), Ok(place("bb", "bundle")));
        assert_eq!(one(&pod(), Some("bundle")), Ok(place("bb", "bundle")));
        let no_program = with("/spec/containers/1/command", json!(["sh"]));
        assert_eq!(one(&no_program, None), Err(Reason::StrangePod { container: None }));
        let native = with("/spec/initContainers/1/command", json!(["/usr/bin/sidecar", "init"]));
        assert_eq!(one(&native, None), Err(which()), "a native sidecar is one too");
        assert_eq!(one(&native, Some("log")), Ok(place("dd", "log")));
        assert_eq!(one(&native, Some("setup")), Err(which()), "it has ended");
        assert_eq!(one(&native, Some("nobody")), Err(which()));
    }

    #[test]
    fn the_pods_label_tells_of_its_only_container_and_of_no_other() {
        let labels = || json!({ LABEL: "1" });
        let mut pod = with("/metadata/labels", labels());
        assert_eq!(one(&pod, Some("agent")), Err(Reason::StrangePod { container: Some(Printable::new("agent")) }));
        pod["spec"]["containers"].as_array_mut().unwrap().pop();
        assert_eq!(one(&pod, None), Err(Reason::StrangePod { container: None }));
        pod["spec"]["initContainers"].as_array_mut().unwrap().pop();
        assert_eq!(one(&pod, None), Ok(place("aa", "agent")));
        pod["metadata"]["labels"][LABEL] = json!("");
        assert_eq!(one(&pod, None), Err(Reason::StrangePod { container: None }));
    }

    #[test]
    fn a_pod_whose_processes_are_not_its_containers_own_is_left_alone() {
        for (key, yes) in [("shareProcessNamespace", true), ("hostPID", true), ("hostPID", false)] {
            let said = one(&with(&format!("/spec/{key}"), json!(yes)), None);
            let expected =
                if yes { Err(Reason::SharesPids { mode: Printable::new(key) }) } else { Ok(place("bb", "bundle")) };
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn a_container_that_does_not_run_is_unreachable_and_its_state_is_told() {
        let waiting = json!({ "name": "bundle", "state": { "waiting": { "reason": "CrashLoopBackOff" } } });
        let not = |state: &str| Err(Reason::NotUp { state: Printable::new(state) });
        assert_eq!(one(&with("/status/containerStatuses/1", waiting), None), not("waiting, CrashLoopBackOff"));
        assert_eq!(
            one(&with("/metadata/deletionTimestamp", json!("2026-11-24T10:00:00Z")), None),
            not("its pod is terminating")
        );
        assert_eq!(one(&with("/status", json!({ "phase": "Pending" })), None), not("its pod is Pending"));
    }

    #[test]
    fn pods_are_found_in_a_list_by_name_in_the_order_that_they_were_asked_for() {
        let mut other = pod();
        other["metadata"]["name"] = json!("b0");
        let list = json!({ "kind": "List", "items": [pod(), other] }).to_string();
        let names = ["b0", "b2", "b1"].map(str::to_owned);
        let stderr = b"Error from server (NotFound): pods \"b2\" not found\n";
        let (found, _) = identify(Some(&names), None, list.as_bytes(), stderr).unwrap();
        let told: Vec<_> = found.iter().map(|found| (found.asked.as_str(), found.bundle.is_ok())).collect();
        assert_eq!(told, [("b0", true), ("b2", false), ("b1", true)]);
        assert_eq!(found[1].bundle, Err(Reason::NoSuch { is_pod: true }));

        let refused =
            b"The connection to the server localhost:8080 was refused - did you specify the right host or port?";
        let (found, _) = identify(Some(&names), None, b"", refused).unwrap();
        assert!(found.iter().all(|found| matches!(found.bundle, Err(Reason::CallFailed { .. }))), "{found:?}");
        assert_eq!(identify(None, None, b"{}", b""), None);
        assert_eq!(identify(None, None, br#"{"items":[]}"#, b""), Some((Vec::new(), 0)));
    }

    #[test]
    fn a_selection_leaves_out_the_pods_that_are_being_deleted_and_counts_them() {
        let mut old = with("/metadata/deletionTimestamp", json!("2026-11-24T10:00:00Z"));
        old["metadata"]["name"] = json!("b0");
        let list = json!({ "kind": "List", "items": [old, pod()] }).to_string();
        let (found, terminating) = identify(None, None, list.as_bytes(), b"").unwrap();
        let names: Vec<&str> = found.iter().map(|found| found.asked.as_str()).collect();
        assert_eq!((names, terminating), (vec!["b1"], 1));
        assert_eq!(found[0].program.as_deref(), Some("/sbin/init"));
        let names = ["b0", "b1"].map(str::to_owned);
        let (found, terminating) = identify(Some(&names), None, list.as_bytes(), b"").unwrap();
        assert_eq!((found[0].bundle.is_err(), found[1].bundle.is_ok(), terminating), (true, true, 0));
    }
}
