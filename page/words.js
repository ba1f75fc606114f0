/**
 * The texts of the page in English and Spanish, and number formats.
 *
 * Fixed English texts are in the markup (`data-t`, `data-label`). This file has the English texts that change, and all
 * Spanish ones.
 */
import { spanishTasks } from "./descriptions.js";
import * as terms from "./terms.js";

const en = {
  ...terms.en,
  all: (/** @type {number} */ n) => (n ? `all (${n})` : "all"),
  alive: (/** @type {number} */ n) => (n === 1 ? "1 worker ready" : `${n} workers ready`),
  locked: "The server requires an access token.",
  refused: "The server refused this token.",
  none: "Waiting for workers. Start one:",
  silent: "The server does not answer.",
  unknown: (/** @type {number} */ status) => `The server answered with status ${status}.`,
  mosaicOf: (/** @type {string} */ name) => `${name}: finished bands, each in the colour of its worker`,
  originalOf: (/** @type {string} */ name) => `${name}, the original`,
  edgesOf: (/** @type {string} */ name) => `Result of ${name}`,
  ofBands: (/** @type {string} */ done, /** @type {string} */ all) => `${done} of ${all}`,
  bandsIn: (/** @type {string} */ n, /** @type {number} */ bands) => (bands === 1 ? "1 band" : `${n} bands`),
  takenOver: (/** @type {number} */ n) => (n === 1 ? "1 band taken over" : `${n} bands taken over`),
  takenOverWhy: "Redelivered after a worker was lost or failed",
  originalShare: (/** @type {string} */ percent) => `${percent} original`,
  large: "Too large to show at full resolution. The downloaded file is complete.",
  unseen: "This browser cannot show this format. It will show the result.",
  offline: "It resumes when the server answers. Finished bands are kept.",
  nextTry: (/** @type {string} */ seconds) => `Next attempt in ${seconds} s.`,
  lostWhy: "The page was closed before this picture was sent, and it was too large to keep. Choose it again.",
  expiredWhy: "Results are kept for a limited time. Choose the picture again.",
  dropPicture: "Drop an image",
  dropText: "Drop a text",
  dropFile: "Drop a file",
  piecesIn: (/** @type {string} */ n) => `${n} pieces`,
  again: (/** @type {number} */ n) => (n === 1 ? "Again with 1 worker" : `Again with ${n} workers`),
  againAll: "Again with all workers",
  showRun: (/** @type {string} */ workers) => `Show the run with ${workers} workers`,
  everyone: "all",
  automatic: "automatic",
  yes: "yes",
  no: "no",
  byDefault: (/** @type {string} */ value) => `default: ${value}`,
  copied: "Copied",
  notCopied: "This browser did not allow copying. The command:",
  forget: (/** @type {string} */ name) => `Remove ${name} from the list`,
  phases: {
    queued: "Queued",
    locked: "Waiting for the access token",
    sending: "Sending",
    interrupted: "Interrupted",
    running: "Processing",
    waiting: "Waiting for workers",
    done: "Done",
    failed: "Failed",
    cancelled: "Cancelled",
    expired: "Expired",
    lost: "Not sent",
    elsewhere: "In another tab, if it is still open",
  },
  problems: {
    0: "The connection was lost",
    400: "This is not an image",
    401: "The server requires an access token",
    404: "The server no longer has this job",
    409: "This differs from the picture sent before",
    413: "This image is too large",
    415: "This format is not supported",
    422: "The image is damaged",
    429: "The server is busy",
    503: "The server is busy",
    job: "The job failed",
    500: "The job failed",
    other: "Something went wrong",
  },
  /** What to do, by status. @type {Record<string, string>} */
  remedies: {
    400: "Choose a picture: PNG, JPEG, WebP, AVIF, GIF, TIFF or SVG.",
    409: "Remove it from the list and choose the picture again.",
    413: "Choose a smaller picture, or have the limits raised.",
    415: "Save it as PNG or JPEG and choose that.",
    422: "Open it in another program, save it as PNG, and choose that.",
  },
  /** Tasks by name, parameters by task and name; empty: as the server describes them. @type {Record<string, string>} */
  tasks: {},
  fleet: (/** @type {number} */ workers, /** @type {number} */ machines, /** @type {number} */ cores) =>
    `1 to ${workers} workers, ${machines === 1 ? "1 machine" : `${machines} machines`}, ${cores} cores`,
  best: (/** @type {string} */ speedup) => `speed-up ${speedup}`,
  report: {
    settings: "Settings",
    runs: "Runs",
    result: "Result",
    timeline: "Timeline",
    experiment: "Experiment",
    date: "Date",
    task: "Task",
    size: "Size",
  },
  wallLocal:
    "Only this machine can open this address. For phones, start the coordinator with HOST=0.0.0.0 and open its address.",
  wallOwn: "Only the jobs of this browser: the setting CLASSROOM=wall shows those of all.",
  samples: { hills: "Hills", rings: "Rings", town: "A town" },
  light: (/** @type {string} */ task, /** @type {string} */ work, /** @type {string} */ heavy) =>
    `A band of ${task} is computed in ${work}: hardly more than it takes to carry it. So more workers hardly help. ${heavy} does real work for every pixel.`,
  useHeavy: (/** @type {string} */ heavy) => `Send it with ${heavy}`,
  held: (/** @type {string} */ names) => `${names}: not sent yet. Correct the marked value, then send.`,
  measure: (/** @type {number} */ n) => `Measure with 1 to ${n} workers`,
  needsTwo: "This needs at least two workers.",
  needsPicture: "This needs a picture: choose one above.",
  needsQuiet: "This can start when no other job is running.",
  needsFile: "This needs the original file, which is not kept after a reload: choose it again.",
  fewCores: (/** @type {number} */ cores, /** @type {number} */ workers) =>
    `These machines have ${cores === 1 ? "1 core" : `${cores} cores`} for ${workers} workers. With more workers than cores, the speed-up flattens.`,
  warmUp: "Warming up",
  runOf: (/** @type {number} */ run, /** @type {number} */ all, /** @type {number} */ n) =>
    `Run ${run} of ${all}: ${n === 1 ? "1 worker" : `${n} workers`}`,
  stopped: "Stopped.",
  serial: (/** @type {string} */ percent) => `Serial fraction (Amdahl): ${percent}`,
  measured: "measured",
  ideal: "ideal",
  amdahl: "Amdahl, fitted",
  time: "Time, seconds",
  speedup: "Speed-up",
  efficiency: "Efficiency",
  workersAxis: "workers",
  chart: "Time, speed-up and efficiency by number of workers; the table below has the figures",
};

/** @type {typeof en} */
const es = {
  ...terms.es,
  all: (n) => (n ? `todos (${n})` : "todos"),
  alive: (n) => (n === 1 ? "1 worker listo" : `${n} workers listos`),
  locked: "El servidor requiere un token de acceso.",
  refused: "El servidor rechazó este token.",
  none: "Esperando workers. Iniciá uno:",
  silent: "El servidor no responde.",
  unknown: (status) => `El servidor respondió con el código ${status}.`,
  mosaicOf: (name) => `${name}: las bandas terminadas, cada una del color de su worker`,
  originalOf: (name) => `${name}, el original`,
  edgesOf: (name) => `Resultado de ${name}`,
  ofBands: (done, all) => `${done} de ${all}`,
  bandsIn: (n, bands) => (bands === 1 ? "1 banda" : `${n} bandas`),
  takenOver: (n) => (n === 1 ? "1 banda retomada" : `${n} bandas retomadas`),
  takenOverWhy: "Se volvió a entregar: un worker se perdió o falló",
  originalShare: (percent) => `${percent} original`,
  large: "Demasiado grande para mostrarla a resolución completa. El archivo descargado está completo.",
  unseen: "Este navegador no puede mostrar este formato. El resultado sí se mostrará.",
  offline: "Continúa cuando el servidor responda. Las bandas terminadas se conservan.",
  nextTry: (seconds) => `Próximo intento en ${seconds} s.`,
  lostWhy: "La página se cerró antes de enviar esta imagen, y era demasiado grande para guardarla. Elegila otra vez.",
  expiredWhy: "Los resultados se guardan por un tiempo limitado. Elegí la imagen otra vez.",
  dropPicture: "Soltá una imagen",
  dropText: "Soltá un texto",
  dropFile: "Soltá un archivo",
  piecesIn: (n) => `${n} partes`,
  again: (n) => (n === 1 ? "Otra vez con 1 worker" : `Otra vez con ${n} workers`),
  againAll: "Otra vez con todos los workers",
  showRun: (workers) => `Mostrar la corrida con ${workers} workers`,
  everyone: "todos",
  automatic: "automático",
  yes: "sí",
  no: "no",
  byDefault: (value) => `por defecto: ${value}`,
  copied: "Copiado",
  notCopied: "Este navegador no permitió copiar. El comando:",
  forget: (name) => `Quitar ${name} de la lista`,
  phases: {
    queued: "En cola",
    locked: "Esperando el token de acceso",
    sending: "Enviando",
    interrupted: "Interrumpido",
    running: "Procesando",
    waiting: "Esperando workers",
    done: "Listo",
    failed: "Falló",
    cancelled: "Cancelado",
    expired: "Caducado",
    lost: "No enviado",
    elsewhere: "En otra pestaña, si sigue abierta",
  },
  problems: {
    0: "Se perdió la conexión",
    400: "Esto no es una imagen",
    401: "El servidor requiere un token de acceso",
    404: "El servidor ya no tiene este trabajo",
    409: "Esto difiere de la imagen enviada antes",
    413: "Esta imagen es demasiado grande",
    415: "Este formato no se admite",
    422: "La imagen está dañada",
    429: "El servidor está ocupado",
    503: "El servidor está ocupado",
    job: "El trabajo falló",
    500: "El trabajo falló",
    other: "Algo salió mal",
  },
  remedies: {
    400: "Elegí una imagen: PNG, JPEG, WebP, AVIF, GIF, TIFF o SVG.",
    409: "Quitalo de la lista y elegí la imagen otra vez.",
    413: "Elegí una imagen más chica, o pedí que suban los límites.",
    415: "Guardala como PNG o JPEG y elegí ese archivo.",
    422: "Abrila en otro programa, guardala como PNG y elegí ese archivo.",
  },
  tasks: spanishTasks,
  fleet: (workers, machines, cores) =>
    `1 a ${workers} workers, ${machines === 1 ? "1 máquina" : `${machines} máquinas`}, ${cores} núcleos`,
  best: (speedup) => `aceleración ${speedup}`,
  report: {
    settings: "Datos",
    runs: "Corridas",
    result: "Resultado",
    timeline: "Línea de tiempo",
    experiment: "Experimento",
    date: "Fecha",
    task: "Tarea",
    size: "Tamaño",
  },
  wallLocal:
    "Solo esta máquina puede abrir esta dirección. Para los teléfonos, iniciá el coordinador con HOST=0.0.0.0 y abrí su dirección.",
  wallOwn: "Solo los trabajos de este navegador: la opción CLASSROOM=wall muestra los de todos.",
  samples: { hills: "Sierras", rings: "Anillos", town: "Una ciudad" },
  light: (task, work, heavy) =>
    `Una banda de ${task} se calcula en ${work}: apenas más de lo que cuesta llevarla. Por eso más workers casi no ayudan. ${heavy} hace trabajo de verdad para cada píxel.`,
  useHeavy: (heavy) => `Enviarla con ${heavy}`,
  held: (names) => `${names}: todavía no se envió. Corregí el valor marcado y enviá.`,
  measure: (n) => `Medir con 1 a ${n} workers`,
  needsTwo: "Hacen falta al menos dos workers.",
  needsPicture: "Hace falta una imagen: elegí una arriba.",
  needsQuiet: "Puede empezar cuando no haya otro trabajo en curso.",
  needsFile: "Hace falta el archivo original, que no se guarda al recargar: elegilo otra vez.",
  fewCores: (cores, workers) =>
    `Estas máquinas tienen ${cores === 1 ? "1 núcleo" : `${cores} núcleos`} para ${workers} workers. Con más workers que núcleos, la aceleración se aplana.`,
  warmUp: "Calentando",
  runOf: (run, all, n) => `Prueba ${run} de ${all}: ${n === 1 ? "1 worker" : `${n} workers`}`,
  stopped: "Detenido.",
  serial: (percent) => `Fracción serial (Amdahl): ${percent}`,
  measured: "medido",
  ideal: "ideal",
  amdahl: "Amdahl, ajustado",
  time: "Tiempo, segundos",
  speedup: "Aceleración",
  efficiency: "Eficiencia",
  workersAxis: "workers",
  chart: "Tiempo, aceleración y eficiencia según el número de workers; las cifras están en la tabla",
};

/** Spanish for the fixed texts of the markup. @type {Record<string, string>} */
const spanish = {
  ...terms.spanish,
  title: "Sobel, distribuido",
  language: "Idioma",
  tagline:
    "Entra una imagen, salen sus bordes: se corta en bandas, la procesan todos los workers a la vez y se une sin costuras.",
  split: "dividir",
  queue: "encolar",
  process: "procesar",
  merge: "unir",
  drop: "Soltá una imagen",
  choose: "Elegir un archivo",
  photograph: "Sacá una foto",
  paste: "o pegala, en cualquier parte de esta página",
  workers: "Workers",
  token: "Token de acceso",
  enter: "Desbloquear",
  options: "Opciones",
  earlier: "Experimentos anteriores",
  report: "Guardar informe",
  zip: "Todos los resultados en un ZIP",
  wall: "Vista de clase",
  wallHead: "Las imágenes de todos",
  wallEmpty: "Las imágenes aparecen acá.",
  qr: "Código QR de la dirección",
  fullScreen: "Pantalla completa",
  back: "Volver",
  samples: "Ejemplos",
  cut: "Bandas",
  cutAuto: "automático",
  cutBands: "cerca de esta cantidad",
  cutRows: "de esta cantidad de filas",
  cutNumber: "Cantidad",
  runs: "Corridas",
  again: "Otra vez con",
  againChosen: "Como elegiste arriba",
  runsCold:
    "Más que el número de workers: la corrida con 1 worker fue la primera, y los workers arrancan lento. Enviala otra vez con 1.",
  timeHead: "Tiempo",
  save: "Descargar los resultados automáticamente",
  sent: "Enviado",
  bands: "Bandas",
  legend: "Bandas por worker",
  cancel: "Cancelar",
  retry: "Reintentar",
  download: "Descargar",
  curl: "Copiar curl",
  view: "Vista",
  mosaic: "Bandas",
  compare: "Antes y después",
  before: "Original",
  after: "Resultado",
  task: "Tarea",
  params: "Parámetros",
  slider: "Cuánto se ve del original",
  picture: "La imagen ampliada; las flechas la mueven",
  zoom: "Ampliación",
  zoomOut: "Reducir",
  zoomIn: "Ampliar",
  fit: "Ajustar",
  jobs: "Trabajos recientes",
  show: "Mostrar",
  another: "Elegir otro archivo",
  send: "Enviar",
  experiment: "¿Cuánto más rápido con más workers?",
  experimentWhat:
    "Envía la imagen elegida con 1, 2, … N workers, tres veces cada uno, y toma las medianas. Cada tiempo va desde el inicio del envío hasta la última banda.",
  stop: "Detener",
  start: "Empezar",
  csv: "Guardar CSV",
  svg: "Guardar SVG",
  times: "Tiempos, s",
  median: "Mediana, s",
  speedupHead: "Aceleración",
  speedupShort: "Acel.",
  efficiencyHead: "Eficiencia",
  noscript: "Esta página necesita JavaScript.",
};

const words = { en, es };
/** @typedef {keyof typeof words} Language */

/** @type {Language} */
export let lang = wanted();
export let t = words[lang];

/** The language chosen earlier; otherwise the first of the browser's languages that the page has. @returns {Language} */
function wanted() {
  const chosen = remembered("language");
  const known = [chosen ?? "", ...navigator.languages].map((tag) => tag.slice(0, 2).toLowerCase());
  return /** @type {Language | undefined} */ (known.find((tag) => tag in words)) ?? "en";
}

/** @param {Language} language */
export function speak(language) {
  lang = language;
  t = words[language];
  remember("language", language);
}

/** @type {WeakMap<Element, { text: string | null, label: string | null }>} */
const english = new WeakMap();

/** Translates every marked element. @param {ParentNode} root */
export function translate(root) {
  for (const node of root.querySelectorAll("[data-t], [data-label]")) {
    const { t: text, label } = /** @type {HTMLElement} */ (node).dataset;
    const own = english.get(node) ?? { text: node.textContent, label: node.getAttribute("aria-label") };
    english.set(node, own);
    if (text) node.textContent = (lang === "es" && spanish[text]) || own.text;
    if (label) node.setAttribute("aria-label", (lang === "es" && spanish[label]) || own.label || "");
  }
}

/** Making one takes longer than all of a frame's figures. @type {Map<string, Intl.NumberFormat>} */
const formats = new Map();

/** @param {number} value @param {Intl.NumberFormatOptions} [options] */
export function number(value, options) {
  const key = lang + JSON.stringify(options);
  const format = formats.get(key) ?? new Intl.NumberFormat(lang, options);
  formats.set(key, format);
  return format.format(value);
}

/** Reads a small setting of this browser. @param {string} name @returns {string | null} */
export function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // storage is disabled
  }
}

/** @param {string} name @param {string} value */
export function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Storage is disabled: the setting lasts until the page is closed.
  }
}
