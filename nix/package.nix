# The static binary.
{
  manifest,
  pkgsStatic,
  source,
}:
pkgsStatic.rustPlatform.buildRustPackage {
  pname = manifest.name;
  inherit (manifest) version;
  src = source.program;
  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = "--package=k8vent --bin=k8vent";

  # The flags of image/static, whose reasons are there. They take the place of those that nixpkgs would give, crt-static
  # among them.
  env.RUSTFLAGS = "-C target-feature=+crt-static -C relocation-model=static";

  # The build turns off Cargo's own stripping; by default only debug information would go.
  stripAllList = [ "bin" ];

  # They are a check of their own: this source has no tests, and the control plane is no part of the build.
  doCheck = false;

  meta = {
    inherit (manifest) description;
    homepage = manifest.repository;
    mainProgram = manifest.name;
  };
}
