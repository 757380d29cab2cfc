# The image and the manifests in a cluster, used as the README says.
{
  dockerTools,
  image,
  jq,
  kubectl,
  kubernetes,
  lib,
  python3,
  testers,
}:
let
  # The machine has no network, so this is here for two: it holds the sandbox of every pod, and is the pod to watch.
  pause = dockerTools.buildLayeredImage {
    name = "k8vent.test/pause";
    tag = "local";
    config.Entrypoint = [ (lib.getExe' kubernetes.pause "pause") ];
  };
  pauseReference = "${pause.imageName}:${pause.imageTag}";
in
testers.runNixOSTest {
  name = "k8vent";

  nodes.machine = {
    virtualisation = {
      memorySize = 2048;
      diskSize = 4096;
    };

    services.k3s = {
      enable = true;
      role = "server";
      images = [
        image
        pause
      ];
      extraFlags = [ "--pause-image=${pauseReference}" ];
      # Their images are not here, and k8vent needs none of them.
      disable = [
        "coredns"
        "local-storage"
        "metrics-server"
        "servicelb"
        "traefik"
      ];
    };
    # From the pods to the API server and to the receiver.
    networking.firewall.trustedInterfaces = [ "cni0" ];

    systemd.services.receiver = {
      wantedBy = [ "multi-user.target" ];
      serviceConfig.ExecStart = "${lib.getExe python3} ${./receiver.py} 8000 /bodies";
    };

    environment = {
      systemPackages = [
        jq
        kubectl
      ];
      sessionVariables.KUBECONFIG = "/etc/rancher/k3s/k3s.yaml";
    };
  };

  testScript =
    { nodes, ... }:
    # python
    ''
      def wait_for_post(phase: str) -> None:
          """Waits for a POST that tells this phase of the pod."""
          condition = f'.pod | .metadata.name == "watched" and .status.phase == "{phase}"'
          machine.wait_until_succeeds(f"jq --exit-status --slurp 'any(.[]; {condition})' /bodies", timeout=120)


      machine.wait_for_unit("receiver")
      machine.wait_for_unit("k3s")
      machine.wait_until_succeeds("kubectl get serviceaccount default", timeout=300)

      machine.succeed(
          "kubectl apply -f ${../kube}/namespace.yaml",
          "kubectl create secret generic k8vent-webhooks --namespace=k8vent"
          " --from-literal=K8VENT_WEBHOOKS=http://${nodes.machine.networking.primaryIPAddress}:8000/",
          "kubectl apply -k ${../kube}",
          "kubectl rollout status --namespace=k8vent deployment/k8vent --timeout=300s",
      )

      machine.succeed("kubectl run watched --image=${pauseReference} --image-pull-policy=Never")
      wait_for_post("Running")
      machine.succeed("kubectl delete pod watched")
      wait_for_post("Deleted")
    '';
}
