/**
 * The descriptions of this project's tasks in Spanish, and of their parameters as `task.name`. English ones come from the tasks.
 */

/** @type {Record<string, string>} */
export const spanishTasks = {
  sobel: "Bordes: la magnitud del gradiente de Sobel de 3 × 3",
  scharr: "Bordes: la magnitud del gradiente de Scharr de 3 × 3",
  blur: "Desenfoque gaussiano",
  "blur.sigma": "desvío estándar, en píxeles",
  histogram: "Cuántas veces aparece cada gris, en JSON",
  threshold: "Blanco y negro: blanco por encima de un nivel; por defecto, el de Otsu de toda la imagen",
  "threshold.level": "blanco por encima de este gris; vacío: el nivel de Otsu",
  median: "Filtro de mediana, repetido: trabajo de verdad para cada píxel",
  "median.radius": "la mitad del lado del cuadrado, en píxeles",
  "median.times": "cuántas veces se aplica el filtro",
  equalize: "Más contraste: reparte los grises de manera pareja (ecualización del histograma)",
  stretch: "Más contraste: de negro a blanco",
  "stretch.low": "pasa a negro; vacío: el gris más oscuro",
  "stretch.high": "pasa a blanco; vacío: el gris más claro",
  invert: "El negativo, en color",
  sepia: "El marrón de las fotos viejas",
  half: "La mitad del ancho y del alto, en color",
  thumbnail: "Una imagen chica, en color",
  "thumbnail.factor": "cuántas veces más chico es cada lado",
  crack: "La palabra de letras minúsculas que tiene este MD5, o null",
  "crack.md5": "32 dígitos hexadecimales",
  "crack.length": "letras, como máximo",
  pi: "Los dígitos decimales de π",
  "pi.digits": "después de la coma",
  primes: "Cuántos números primos hay por debajo de un límite",
  "primes.below": "el límite",
  words: "Las líneas, palabras y bytes de un texto, y sus palabras más frecuentes",
  "words.top": "cuántas de las palabras más frecuentes",
};
