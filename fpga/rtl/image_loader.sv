// LOAD: brings the image from memory into the activation memory, four pixels at a time, one in
// each bank.
//
// Bytes come 16 at a time and leave by 24 (fold: half of four pixels of 2 x 2) or by 12.
module image_loader (
    input  logic         clk,
    input  logic         rst,
    input  logic         start,
    input  logic [511:0] descriptor,   // stays until `done`
    output logic         done,         // a cycle

    input  logic [39:0]  base,
    output logic         request,
    output logic [39:0]  request_address,
    output logic [4:0]   request_length,
    input  logic         grant,
    input  logic         data_valid,
    input  logic [127:0] data,
    output logic         ready,

    output logic         write,
    output logic [15:0]  write_bytes,
    output logic [15:0]  write_row,
    output logic [511:0] write_data
);
  logic fold, odd, running, preparing;
  logic [15:0] width, height, pixel_stride, line_stride;
  assign fold = descriptor[layout::LOAD_FOLD];
  assign width = descriptor[layout::LOAD_WIDTH+:16];
  assign height = descriptor[layout::LOAD_HEIGHT+:16];
  assign pixel_stride = descriptor[layout::LOAD_TARGET_PIXEL_STRIDE+:16];
  assign line_stride = descriptor[layout::LOAD_TARGET_LINE_STRIDE+:16];

  // Groups of four pixels, 12 bytes each, and the beats of 16 bytes that hold them all.
  logic [21:0] fours;
  logic [23:0] beats;
  logic [2:0] prepare;
  logic unused_busy;
  always_ff @(posedge clk) begin
    fours <= width[11:2] * height[11:0];
    beats <= 24'((24'(fours) * 24'd3 + 24'd3) >> 2);
  end
  regions image_regions (
      .clk,
      .rst,
      .start(prepare == 3'd4),
      .fresh(1'b1),
      .again(1'b0),
      .base,
      .offset(descriptor[layout::LOAD_SOURCE_OFFSET+:32]),
      .beats,
      .busy(unused_busy),
      .valid(request),
      .ready(grant),
      .address(request_address),
      .length(request_length)
  );
  always_ff @(posedge clk) begin
    if (rst) preparing <= 1'b0;
    else if (start) preparing <= 1'b1;
    else if (prepare == 3'd4) preparing <= 1'b0;
    prepare <= preparing && !rst ? prepare + 3'd1 : '0;
  end

  // Words of 4 bytes that wait to leave.
  logic [319:0] waiting, kept;
  logic [3:0] filled, left;
  logic leave;
  assign leave = running && filled >= (fold ? 4'd6 : 4'd3);
  assign left = leave ? filled - (fold ? 4'd6 : 4'd3) : filled;
  assign kept = !leave ? waiting : fold ? {192'd0, waiting[319:192]} : {96'd0, waiting[319:96]};
  assign ready = fold || (!data_valid && filled <= 4'd4);

  // Where four pixels go.
  logic [15:0] line_row, row, quad, quads, line;
  logic last_quad, last;
  assign quads = fold ? width >> 3 : width >> 2;
  assign last_quad = quad == 16'd1;
  assign last = last_quad && line == 16'd1;

  always_ff @(posedge clk) begin
    if (rst) begin
      filled <= '0;
      running <= 1'b0;
      write <= 1'b0;
      done <= 1'b0;
    end else begin
      write <= leave;
      done <= leave && last;
      if (start) begin
        running <= 1'b1;
        filled <= '0;
      end else if (leave && last) begin
        running <= 1'b0;
        filled <= '0;
      end else begin
        filled <= left + (data_valid && running ? 4'd4 : 4'd0);
      end
    end
  end

  always_ff @(posedge clk) begin
    waiting <= kept;
    if (data_valid) waiting <= kept | ({192'd0, data ^ {16{8'h80}}} << {left, 5'd0});
    if (start) begin
      waiting <= '0;
      odd <= 1'b0;
      quad <= quads;
      line <= height;
      line_row <= descriptor[layout::LOAD_TARGET_BASE+:16];
      row <= descriptor[layout::LOAD_TARGET_BASE+:16];
    end else if (leave) begin
      row <= row + pixel_stride;
      quad <= quad - 16'd1;
      if (last_quad) begin
        quad <= quads;
        line <= line - 16'd1;
        odd <= !odd;
        // The second line of a fold goes where the first one went.
        if (!fold || odd) begin
          line_row <= line_row + line_stride;
          row <= line_row + line_stride;
        end else row <= line_row;
      end
    end
  end

  integer i;
  always_ff @(posedge clk) begin
    write_row <= row;
    if (!fold) write_bytes <= 16'hFFFF;
    else write_bytes <= odd ? 16'hFFC0 : 16'h003F;
    for (i = 0; i < 4; i = i + 1) begin
      if (!fold) write_data[128*i+:128] <= {104'd0, waiting[24*i+:24]};
      else write_data[128*i+:128] <= {32'd0, waiting[48*i+:48], waiting[48*i+:48]};
    end
  end
endmodule
