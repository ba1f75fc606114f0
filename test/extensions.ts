// Types for the kinds of KEDA and of GKE, with only the fields that k8s/ uses. Any other field is a type error: look it up in
// their documentation, then add it here.
import type { HorizontalPodAutoscalerBehavior } from "kubernetes-types/autoscaling/v2";
import type { ObjectMeta } from "kubernetes-types/meta/v1";

export interface ScaledObject {
  apiVersion: "keda.sh/v1alpha1";
  kind: "ScaledObject";
  metadata: ObjectMeta;
  spec: {
    scaleTargetRef: { name: string };
    minReplicaCount: number;
    maxReplicaCount: number;
    pollingInterval: number;
    advanced: { horizontalPodAutoscalerConfig: { behavior: HorizontalPodAutoscalerBehavior } };
    triggers: {
      type: "rabbitmq";
      metadata: { protocol: "http" | "amqp"; host: string; queueName: string; mode: "QueueLength"; value: string };
      authenticationRef: { name: string };
    }[];
  };
}

export interface TriggerAuthentication {
  apiVersion: "keda.sh/v1alpha1";
  kind: "TriggerAuthentication";
  metadata: ObjectMeta;
  spec: { secretTargetRef: { parameter: "username" | "password"; name: string; key: string }[] };
}

export interface ManagedCertificate {
  apiVersion: "networking.gke.io/v1";
  kind: "ManagedCertificate";
  metadata: ObjectMeta;
  spec: { domains: string[] };
}

export interface FrontendConfig {
  apiVersion: "networking.gke.io/v1beta1";
  kind: "FrontendConfig";
  metadata: ObjectMeta;
  spec: { redirectToHttps: { enabled: boolean } };
}

export interface BackendConfig {
  apiVersion: "cloud.google.com/v1";
  kind: "BackendConfig";
  metadata: ObjectMeta;
  spec: {
    timeoutSec: number;
    connectionDraining: { drainingTimeoutSec: number };
    healthCheck: {
      type: "HTTP" | "HTTPS" | "HTTP2";
      requestPath: string;
      port: number;
      checkIntervalSec: number;
      timeoutSec: number;
      unhealthyThreshold: number;
    };
  };
}
