# What `nix flake check` builds.
{
  clippy,
  control-plane,
  image,
  jq,
  k8vent,
  lib,
  manifest,
  runCommand,
  rustPlatform,
  rustfmt,
  source,
  yq-go,
}:
let
  # A run of Cargo over all of the source, with the toolchain of this machine.
  cargo =
    name: command: env:
    rustPlatform.buildRustPackage {
      pname = "k8vent-${name}";
      inherit (manifest) version;
      inherit env;
      src = source.tests;
      cargoLock.lockFile = ../Cargo.lock;
      # It wraps Cargo, and knows only builds.
      auditable = false;
      nativeBuildInputs = [
        clippy
        rustfmt
      ];
      buildPhase = "cargo ${command}";
      doCheck = false;
      installPhase = "touch $out";
    };
in
{
  tests = cargo "tests" "test --locked" { KUBEBUILDER_ASSETS = "${control-plane}"; };
  clippy = cargo "clippy" "clippy --locked --workspace --all-targets -- --deny warnings" { };
  rustfmt = cargo "rustfmt" "fmt --all --check" { };
  docs = cargo "docs" "doc --locked --workspace --no-deps" { RUSTDOCFLAGS = "--deny warnings"; };

  static = runCommand "k8vent-static" { } ''
    readelf --program-headers --sections --wide ${lib.getExe k8vent} > headers
    # Not as `! grep`, which never ends a script.
    if grep --extended-regexp 'INTERP|DYNAMIC' headers; then
      echo "k8vent needs a dynamic linker, which the image lacks"
      exit 1
    fi
    if grep SYMTAB headers; then
      echo "k8vent is not stripped"
      exit 1
    fi
    touch $out
  '';

  # What the manifests say of the image, against the image itself.
  manifests =
    runCommand "k8vent-manifests"
      {
        nativeBuildInputs = [
          jq
          yq-go
        ];
      }
      ''
        tar --extract --file=${image}
        config=$(jq --raw-output '.[0].Config' manifest.json)
        jq --slurpfile config "$config" '{
          image: .[0].RepoTags[0],
          user: $config[0].config.User,
          ports: $config[0].config.ExposedPorts | keys
        }' manifest.json > image
        for deployment in ${../kube}/deployment-*.yaml; do
          yq --output-format=json "$deployment" | jq '.spec.template.spec | {
            image: .containers[0].image,
            user: "\(.securityContext.runAsUser):\(.securityContext.runAsGroup)",
            ports: [.containers[0].ports[] | "\(.containerPort)/tcp"]
          }' | diff image - || { echo "the image (<) is not what $deployment asks for (>)"; exit 1; }
        done

        tar --extract --file="$(jq --raw-output '.[0].Layers[0]' manifest.json)" --one-top-level=root
        jq --raw-output '.config | .Entrypoint[0], (.Env[] | sub("^SSL_CERT_FILE="; ""))' "$config" |
          cat - <(cd ${../image/root} && find . -type f -printf '/%P\n') | sort > described
        (cd root && find . -type f -printf '/%P\n') | sort > held
        diff described held
        jq --raw-output '.config.User' "$config" > user
        cut --delimiter=: --fields=3,4 root/etc/passwd | diff user -
        touch $out
      '';
}
