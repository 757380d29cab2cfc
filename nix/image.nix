# The image that image/README.md describes, as an archive for `docker load` and its like.
{
  cacert,
  dockerTools,
  k8vent,
  lib,
  manifest,
  revision,
}:
let
  described = lib.importJSON ../image/image.json;

  config = described.config // {
    Labels = lib.mapAttrs' (name: lib.nameValuePair "org.opencontainers.image.${name}") {
      inherit revision;
      inherit (manifest) description version;
      title = manifest.name;
      licenses = manifest.license;
      source = manifest.repository;
    };
  };

  # Those of the OCI image specification. Nobody else looks: runtimes pass over a field that they do not know.
  fields = [
    "Cmd"
    "Entrypoint"
    "Env"
    "ExposedPorts"
    "Labels"
    "StopSignal"
    "User"
    "Volumes"
    "WorkingDir"
  ];
  unknown = lib.subtractLists fields (lib.attrNames config);

  program = lib.head config.Entrypoint;
  bundle = lib.removePrefix "SSL_CERT_FILE=" (
    lib.findFirst (lib.hasPrefix "SSL_CERT_FILE=") (throw "${file}: Env lacks SSL_CERT_FILE") config.Env
  );
  file = "image/image.json";
in
assert
  unknown == [ ] || throw "${file}: correct ${toString unknown}; fields are ${toString fields}";
dockerTools.buildLayeredImage {
  inherit (described) name;
  inherit config;
  tag = manifest.version;

  # The image is what is copied here: no store, and so one layer.
  includeStorePaths = false;
  extraCommands = ''
    cp --recursive --no-preserve=mode ${../image/root}/* .
    install -D ${cacert}/etc/ssl/certs/ca-bundle.crt .${bundle}
    install -D ${lib.getExe k8vent} .${program}
    find . -type d -exec chmod 755 {} +
    find . -type f -exec chmod 444 {} +
    chmod 555 .${program}
  '';
}
