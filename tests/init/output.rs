//! The relay of daemons' output, and init's own log.

use super::Bundle;

#[test]
fn what_daemons_write_to_stdout_and_stderr_reaches_inits_behind_their_names() {
    let bundle = Bundle::start(
        "[[daemon]]\nname = \"alpha\"\ncommand = [\"sh\", \"-c\", \"echo to stdout; echo to stderr >&2; exec sleep 1000\"]\n",
    );
    bundle.wait_for("out", "[alpha] to stdout\n");
    bundle.wait_for("err", "[alpha] to stderr\n");
    assert!(!bundle.read("out").contains("stderr"));
    assert!(!bundle.read("err").contains("[alpha] to stdout"));
}
