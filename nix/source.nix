# What the builds read, and nothing else: the rest may change without a build. A file that is named here and absent is
# an error of the evaluation.
{ lib }:
let
  inherit (lib) fileset;

  of =
    files:
    fileset.toSource {
      root = ../.;
      fileset = fileset.unions files;
    };
in
{
  program = of [
    ../Cargo.lock
    ../Cargo.toml
    ../src
    # Cargo reads the manifests of the whole workspace, and refuses one whose targets have no file.
    ../benches/delivery.rs
    ../tests/harness/Cargo.toml
    ../tests/harness/src/lib.rs
    ../tests/image/main.rs
  ];

  tests = of [
    ../Cargo.lock
    ../Cargo.toml
    ../benches
    ../examples
    ../flake.lock
    ../flake.nix
    ../image
    ../kube
    ../rustfmt.toml
    ../src
    ../tests
  ];
}
