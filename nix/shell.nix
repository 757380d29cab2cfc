# For `cargo test`, and for `.ci/run`.
{
  bubblewrap,
  cargo,
  cargo-deny,
  cargo-zigbuild,
  clippy,
  control-plane,
  deadnix,
  go,
  kubectl,
  kubernetes,
  lib,
  mkShell,
  nixfmt,
  rust-analyzer,
  rustPlatform,
  rustc,
  rustfmt,
  skopeo,
  stdenv,
}:
let
  # nixpkgs has it for Linux only. Elsewhere the tests build it, once, with Go.
  has-control-plane = lib.meta.availableOn stdenv.hostPlatform kubernetes;
in
mkShell {
  packages = [
    cargo
    cargo-deny
    cargo-zigbuild
    clippy
    deadnix
    kubectl
    nixfmt
    rust-analyzer
    rustc
    rustfmt
    skopeo
  ]
  ++ lib.optional stdenv.hostPlatform.isLinux bubblewrap
  ++ lib.optional (!has-control-plane) go;

  env = {
    # For rust-analyzer.
    RUST_SRC_PATH = "${rustPlatform.rustLibSrc}";
  }
  // lib.optionalAttrs has-control-plane { KUBEBUILDER_ASSETS = "${control-plane}"; };
}
