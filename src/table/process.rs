//! `user`, `environment`, `env_file`, `pass_environment`, `working_dir`, `ulimits`: whose a daemon's process is, and what it
//! inherits.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a daemon's process is made with. The default is init's own user, environment, directory and limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// `None`: init's own.
    pub user: Option<User>,
    /// On top of what is passed and of `env_file`, in the order of their names.
    pub environment: Vec<(String, String)>,
    /// A file of `KEY=value` lines, on top of what is passed.
    pub env_file: Option<PathBuf>,
    /// The names of init's variables that it gets; one that ends with `*` matches by its start. `None`: all.
    pub pass_environment: Option<Vec<String>>,
    /// `None`: init's own.
    pub working_dir: Option<PathBuf>,
    /// Soft and hard limits, in the order of their names.
    pub ulimits: Vec<Ulimit>,
}

/// As the table names it: neither part has been looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// A name or a uid.
    pub user: String,
    /// A name or a gid; `None`: the user's own groups.
    pub group: Option<String>,
}

/// One limit of setrlimit(2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// As Compose names it, `nofile` for example.
    pub name: String,
    /// Soft and hard, in the unit of setrlimit(2); `None`: unlimited.
    pub value: Option<u64>,
}
