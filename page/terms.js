/**
 * The texts of the timeline, the pipeline, the log and the legend in English and Spanish. Part of words.js, which is the one
 * that other modules import.
 */

/** Texts that change, or that scripts place. */
export const en = {
  timelineOf: (/** @type {string} */ name) => `Timeline of ${name}; the arrow keys go from bar to bar`,
  tellHow: "A bar shows its figures. Enter or a click marks its band in the picture; Ctrl and the wheel zoom.",
  queueDepth: "queue",
  coordinator: "coordinator",
  theCoordinator: "The coordinator",
  cutting: "read and cut",
  cutFor: (/** @type {string} */ serial, /** @type {string} */ until) =>
    serial
      ? `Coordinator: read and cut for ${serial} ms; the last band was in the queue at ${until} ms`
      : `Coordinator: reading and cutting, ${until} ms so far`,
  mergedIn: (/** @type {string} */ ms) => `Coordinator: merged in ${ms} ms, when the result was first asked for`,
  lane: (/** @type {number} */ n) => `Lane ${n}`,
  thirdParty: "third-party worker",
  bandNo: (/** @type {string} */ band) => `Band ${band}`,
  inQueue: "in the queue",
  fetched: "fetched and decoded",
  computed: "computed",
  storedIn: "stored",
  failedAt: (/** @type {string} */ at) => `at ${at}`,
  againAfter: (/** @type {string} */ names) =>
    names ? `handed out again after ${names} was lost` : "handed out again",
  lostShort: (/** @type {string} */ band) => `lost: band ${band} went back`,
  threwShort: (/** @type {string} */ band) => `threw: band ${band} went back`,
  lostLine: (/** @type {string} */ worker, /** @type {string} */ band, /** @type {string} */ by) =>
    `${worker} lost; its band ${band} went back to the queue${by ? `, ${by} has it now` : ""}`,
  threwLine: (/** @type {string} */ worker, /** @type {string} */ band) =>
    `the task threw on ${worker}; band ${band} went back to the queue.`,
  failedLine: (/** @type {string} */ band) => (band ? `the job failed at band ${band}.` : "the job failed."),
  awayLine: (/** @type {string} */ name) => `${name} is away`,
  backLine: (/** @type {string} */ name) => `${name} is back`,
  lostNow: "lost",
  paused: "paused",
  actions: { pause: "Pause", resume: "Resume", stop: "Stop", kill: "Kill" },
  actionOn: (/** @type {string} */ action, /** @type {string} */ name) => `${action} ${name}`,
  ordered: (/** @type {string} */ action, /** @type {string} */ name) => `${action}: ${name}`,
  lightUp: "works",
  lightDown: "is away",
  why: {
    unreachable: "does not answer: no connection",
    login: "refuses the user or the password",
    vhost: "has no such virtual host, or refuses it to this user",
    rights: "refuses rights that are needed",
    silent: "is connected and does not answer",
    blocked: "is short of memory or disk and takes nothing",
    starting: "is loading its data",
    version: "is too old",
  },
  resumes: "Finished bands are kept, and the work resumes when it is back.",
  barsOf: (/** @type {string} */ n, /** @type {string} */ top) => `${n} values as bars; the largest is ${top}`,
  withWorkers: (/** @type {number} */ n) => (n === 1 ? "1 worker at a time" : `${n} workers at a time`),
  idleQueues: (/** @type {string} */ n, /** @type {boolean} */ all) =>
    all ? `Nothing waits for any of the ${n} tasks.` : `Nothing waits for the other ${n} tasks.`,
  inside: {
    look: "Show one",
    putBack: "Put back",
    taken: "A worker has taken it meanwhile.",
    distributed: "The queue is RabbitMQ, the store is Redis.",
    embedded: "Queue and store are in the memory of this one process: there is no RabbitMQ and no Redis.",
  },
  putBackDone: (/** @type {string} */ n) => `Put back: ${n}. Now send the picture again under the same id.`,
};

/** @type {typeof en} */
export const es = {
  timelineOf: (name) => `Línea de tiempo de ${name}; las flechas van de barra en barra`,
  tellHow: "Cada barra muestra sus cifras. Enter o un clic marca su banda en la imagen; Ctrl y la rueda amplían.",
  queueDepth: "cola",
  coordinator: "coordinador",
  theCoordinator: "El coordinador",
  cutting: "leer y cortar",
  cutFor: (serial, until) =>
    serial
      ? `Coordinador: leyó y cortó durante ${serial} ms; la última banda entró en la cola a los ${until} ms`
      : `Coordinador: está leyendo y cortando, ${until} ms hasta ahora`,
  mergedIn: (ms) => `Coordinador: unió en ${ms} ms, cuando se pidió el resultado por primera vez`,
  lane: (n) => `Carril ${n}`,
  thirdParty: "worker de terceros",
  bandNo: (band) => `Banda ${band}`,
  inQueue: "en la cola",
  fetched: "recibida y decodificada",
  computed: "calculada",
  storedIn: "guardada",
  failedAt: (at) => `a los ${at}`,
  againAfter: (names) => (names ? `repartida de nuevo: se perdió ${names}` : "repartida de nuevo"),
  lostShort: (band) => `se perdió: la banda ${band} volvió`,
  threwShort: (band) => `falló: la banda ${band} volvió`,
  lostLine: (worker, band, by) =>
    `${worker} se perdió; su banda ${band} volvió a la cola${by ? ` y ahora la tiene ${by}` : ""}`,
  threwLine: (worker, band) => `la tarea falló en ${worker}; la banda ${band} volvió a la cola.`,
  failedLine: (band) => (band ? `el trabajo falló en la banda ${band}.` : "el trabajo falló."),
  awayLine: (name) => `${name} no responde`,
  backLine: (name) => `${name} volvió`,
  lostNow: "perdido",
  paused: "en pausa",
  actions: { pause: "Pausar", resume: "Reanudar", stop: "Detener", kill: "Matar" },
  actionOn: (action, name) => `${action} ${name}`,
  ordered: (action, name) => `${action}: ${name}`,
  lightUp: "funciona",
  lightDown: "no responde",
  why: {
    unreachable: "no responde: no hay conexión",
    login: "rechaza el usuario o la contraseña",
    vhost: "no tiene ese virtual host, o se lo niega a este usuario",
    rights: "niega permisos que hacen falta",
    silent: "está conectado y no responde",
    blocked: "no tiene memoria o disco y no acepta nada",
    starting: "está cargando sus datos",
    version: "es demasiado viejo",
  },
  resumes: "Las bandas terminadas se conservan, y el trabajo sigue cuando vuelva.",
  barsOf: (n, top) => `${n} valores como barras; el mayor es ${top}`,
  withWorkers: (n) => (n === 1 ? "1 worker por vez" : `${n} workers por vez`),
  idleQueues: (n, all) =>
    all
      ? `No hay nada esperando para ninguna de las ${n} tareas.`
      : `No hay nada esperando para las otras ${n} tareas.`,
  inside: {
    look: "Mostrar uno",
    putBack: "Devolver",
    taken: "Un worker ya lo tomó.",
    distributed: "La cola es RabbitMQ, el almacén es Redis.",
    embedded: "La cola y el almacén están en la memoria de este único proceso: no hay RabbitMQ ni Redis.",
  },
  putBackDone: (n) => `Devueltas: ${n}. Ahora enviá la imagen otra vez con el mismo id.`,
};

/** Spanish for fixed texts of the markup. @type {Record<string, string>} */
export const spanish = {
  timeline: "Línea de tiempo",
  timelineBy: "Filas",
  byLane: "Carriles",
  keyWait: "esperando en la cola",
  keyFetch: "recibir y decodificar",
  keyCompute: "calcular",
  keyStore: "guardar y confirmar",
  keyAgain: "repartida de nuevo",
  keyLost: "perdida",
  terms: "Qué significan las palabras",
  halo: "El halo",
  haloWhat: "filas de las bandas vecinas que viajan con cada banda, para que no se vea la costura.",
  ack: "Confirmación",
  ackWhat: "el worker confirma una banda recién cuando su resultado está guardado. Hasta entonces la cola la conserva.",
  redelivery: "Reentrega",
  redeliveryWhat: "si un worker se pierde antes de confirmar, la cola reparte su banda de nuevo.",
  idempotent: "Idempotente",
  idempotentWhat:
    "una banda hecha dos veces da el mismo resultado con la misma clave: una reentrega no arruina la imagen.",
  amdahlLaw: "La ley de Amdahl",
  amdahlWhat:
    "La parte que no se puede repartir limita la aceleración: con una fracción serial del 10 %, ninguna cantidad de workers llega a ser más de 10 veces más rápida.",
  log: "Qué salió mal",
  countCut: "cortadas",
  countQueued: "en cola",
  countHeld: "en manos",
  countStored: "guardadas",
  asBars: "Barras",
  inside: "Por dentro",
  insideQueues: "Mensajes en la cola",
  waitingHead: "Esperando",
  message: "El mensaje",
  bandPicture: "La imagen de la banda",
  insideKeys: "Claves de un trabajo en el almacén",
  insideJob: "Trabajo",
  insideNone: "El almacén no tiene nada de este trabajo.",
  keyHead: "Clave",
  typeHead: "Tipo",
  sizeHead: "Tamaño",
  ttlHead: "Caduca en",
  insideDead: "Mensajes muertos",
  insideAlive: "Ninguno: todas las bandas se pudieron hacer.",
  bandHead: "Banda",
  queueHead: "Cola",
  reasonHead: "Motivo",
  putAll: "Devolver todos",
};
